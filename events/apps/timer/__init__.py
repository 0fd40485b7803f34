"""An operator's timer is started and cancelled; codes with `stops_timer` of any app stop it."""
