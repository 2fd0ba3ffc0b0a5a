"""vpod_builder: from recipe to snapshot.

A build is five steps, one module each, in this order::

    recipe.py    what to build: a short TOML file in recipes/
    sources.py   fetch what it names, and check every byte (debian.py, alpine.py: the archives' own rules)
    rootfs.py    put the root filesystem together in memory (kernel.py, dpkg.py: what goes in besides)
    boot.py      boot it in vpod itself, configure it through the agent
    pack.py      freeze the machine and write the `.snap`

Invariants: nothing is unpacked onto the host's disk, so no step needs root and no archive can escape;
nothing is used before its digest or signature was checked; `vpod` never imports this package.
"""
