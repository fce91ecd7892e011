"""The worker service: consumes bundles, runs task functions, replies. `python -m worker_service` runs it."""

import common

if not hasattr(common, "WARREN"):
    # Imported here and not from common.errors, which another distribution's package does not have.
    raise ImportError(
        f"`common` was imported from {getattr(common, '__file__', None) or 'another place'}, which is not Warren's: "
        f"another package of this name comes first on sys.path; start with the command `warren worker`, or rename "
        f"that package"
    )
