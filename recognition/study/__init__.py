"""An experiment as a file: runs what is missing, compares, says what may be claimed."""
