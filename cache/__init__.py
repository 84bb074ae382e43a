"""The cache: plans, commits, Zarr and HDF5 stores, and `cache.open`, the door for readers."""


def open(run_dir, *, base=None, maps=None, boxes=None, context=None, crops=None):
    """Open a run folder for reading.

    Args:
        run_dir: the folder, such as "runs/miniature", or a URL, such as "s3://bucket/runs/miniature", whose files are
            then brought when they are read and kept in $FOCUSED_ATTENTION_CACHE.
        base, maps, boxes, context, crops: which store of a product to use: its name as `run.stores()` shows it (for
            maps the objective, for boxes and crops the policy) or the first six or more digits of a key. Needed only
            where a run has several; a choice narrows the others to what it was made from or what was made from it.
    Returns:
        cache.reader.Run
    Raises:
        CacheError: no plan, stale or damaged files, a choice that fits no store or several; the message lists them. Of
            a URL also: it cannot be read.
    """
    from cache.reader import open_run  # pandas and zarr load only when a run is opened

    return open_run(run_dir, base=base, maps=maps, boxes=boxes, context=context, crops=crops)
