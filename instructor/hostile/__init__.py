"""Submissions that each try one attack on the grader, and the verdict each must get.

python -m instructor.hostile            # the whole bank
python -m instructor.hostile --sample   # the part that CI runs
"""
