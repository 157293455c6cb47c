//! What fuzz targets and property tests share.
