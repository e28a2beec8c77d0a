"""Measurements that people can repeat on their own machine: `vargfacenet bench WHAT`.

Every comparison runs both sides in turn in one go and prints medians, ratios and their spread; a
table goes to stderr, one JSON line to stdout, and with `--out FILE.json` the same and a picture to
FILE.json and FILE.png. The stock way, MXNet's operators as InsightFace uses them, is always side A.
"""
