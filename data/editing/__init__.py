"""Stores made from stores: merged, split, filtered, sampled, renamed, relabelled."""
