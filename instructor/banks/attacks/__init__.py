"""Submissions that each try one attack on the grader, and the verdict each must get.

submissions/ holds what stands in a submission.py, archives.py what is an attack as a file.
"""
