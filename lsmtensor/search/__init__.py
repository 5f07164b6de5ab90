"""Search over a view: plan per source, exact distances, one merged answer."""
