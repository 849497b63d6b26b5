"""The engine room: what train.py, inference.py and grade.py share. You need not open it."""
