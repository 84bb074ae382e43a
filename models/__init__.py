"""Networks, saliency, box search, fusion and losses of the paper: functions of tensors, without files of a run."""
