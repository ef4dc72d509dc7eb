"""``python -m lastro_pipes`` is the command ``pipes``."""

from lastro_pipes.cli import main

raise SystemExit(main())
