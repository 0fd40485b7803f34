"""Who does the work: recorder, tasks, status worker, the command line and the embedded servers."""
