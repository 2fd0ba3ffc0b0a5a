"""The proof: vpod's machine against machines that no one here wrote, with one command.

    python -m tests.proof [--short | --long] [--only TARGET ...] [--seed N] [--jobs N]

Each target is a module here, listed in `targets.TARGETS`; the design, and what each one shows, is in
docs/design/proof.md. A target cuts its work into pieces, which run as processes of their own, so that a piece which
crashes is a difference like any other and says how to see it again.
"""
