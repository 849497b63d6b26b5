"""The bank that tests the autograder: wrong submissions it must catch, right ones it must pass.

A mutant is a small edit of the reference; it must lose points in its own TODO and nowhere else.
mistakes/<TODO>.txt lists them. An alternative is a correct submission of another kind; it must get
full marks. A file of alternatives/ holds the definitions that differ from the reference.
"""
