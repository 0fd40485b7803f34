"""Who may ask over HTTP, as the settings write it: tokens, host names, a trusted proxy."""
