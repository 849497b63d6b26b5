# Appended to an attack that defines `_step`: from here on it answers for the model's steps, with a
# declaration and an array, or with the bytes of a reply.


def _take_over():
    import sys

    child = sys.modules.get("instructor.quality_child")
    if child is None:  # in the autograder's process
        return
    honest_reply = child.reply
    globals()["_honest"] = child.step

    def reply(declaration, array=None):
        caller = sys._getframe(1).f_locals
        answer = _step(caller["folder"], *child.unpack(caller["request"]))
        return answer if isinstance(answer, bytes) else honest_reply(*answer)

    child.reply = reply


_take_over()
