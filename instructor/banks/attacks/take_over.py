# Appended to an attack that defines `_step`: from here on it answers for the model's steps, with a
# declaration and an array, or with the bytes of a reply. It takes effect within the first request,
# during which this module is imported.


def _take_over():
    import sys
    import types

    child = sys.modules.get("instructor.grading.quality_child")
    if child is None:  # in the autograder's process
        return
    globals()["_honest"] = child.step
    honest = types.FunctionType(child.reply.__code__, vars(child), argdefs=(None,))

    def reply(declaration, array=None):
        asked = sys._getframe(2).f_locals
        try:
            answer = _step(asked["folder"], *child.unpack(asked["request"]))
        except Exception as error:
            answer = {"error": str(error), "kind": type(error).__name__}, None
        return answer if isinstance(answer, bytes) else honest(*answer)

    child.hostile_reply = reply
    child.reply.__code__ = (lambda declaration, array=None: hostile_reply(declaration)).__code__


_take_over()
