"""Messages with escape codes, formulas, HTML and endless lines.

base: stub
code: 0
quality: 0
reason: <script>
"""


def _shout(*args, **kwargs):
    raise RuntimeError(
        "\x1b]0;owned\x07\x1b[2J=cmd|' /C calc'!A0 <script>window.hacked=1</script>"
        "\u202egnp.exe\r\n\x00" + "A" * 1_000_000
    )


vae_loss = mis_chain = jsa_loss = log_importance_weight = _shout
VAE = GenModel = JointModel = ProposalModel = MISampler = _shout
