"""One command as several ranks, on this machine or on several."""
