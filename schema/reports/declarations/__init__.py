"""One file a report. A file that is added here is a report: each has its `REPORT`."""
