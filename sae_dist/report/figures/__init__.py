"""The figures and tables of a report, one file a group: what is drawn, and what a caption says."""
