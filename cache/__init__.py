"""Plan, stores and records of a run folder, as arrays, tables and files alone; `cache.open` reads them."""


def open(run_dir, *, base=None, maps=None, boxes=None, context=None, crops=None):
    """Open a run folder, or a URL such as "s3://bucket/runs/miniature", for reading; return a `cache.reader.Run`.

    Files behind a URL are downloaded when they are read, and kept in $FOCUSED_ATTENTION_CACHE.

    Args:
        base, maps, boxes, context, crops: which store of a product to use, where a run has several: its name as
            `run.stores()` shows it (for maps the objective, for boxes and crops the policy) or at least six first
            digits of its key. A choice also rules out stores of other products that were made with another one.
    Raises:
        CacheError: there is no plan, a file is stale or damaged, the URL cannot be read, or a choice fits no store or
            several; the message then lists the stores.
    """
    from cache.reader import Run  # `import cache` alone is quick: pandas and zarr load when a run is opened

    return Run(run_dir, {"base": base, "maps": maps, "boxes": boxes, "context": context, "crops": crops})
