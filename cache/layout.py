"""Names of what a run folder holds."""

RECORDS = ("models/*/base.json", "models/*/model.json", "results/*.json")  # places of such records in a run folder

PRODUCTS = ("base", "maps", "boxes", "context", "crops")

TABLES = ("stores", "index", "classes", "videos", "skipped")  # of `cache.tables`
