"""What operators of the call centre decide: whom to assign a case to, and when to call back."""
