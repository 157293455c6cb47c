SELECT pg_catalog.concat(pg_catalog.count(r.xmin), ' ', pg_catalog.sum(r.xmin::pg_catalog.text::pg_catalog.int8))
FROM (
  SELECT p.xmin FROM pg_catalog.pg_proc p WHERE p.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT c.xmin FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.>=) '16384' AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
  UNION ALL
  SELECT d.xmin FROM pg_catalog.pg_depend d
  WHERE d.refobjid OPERATOR(pg_catalog.>=) '16384' AND d.classid OPERATOR(pg_catalog.=) '1259' AND d.refclassid OPERATOR(pg_catalog.=) '1247'
  UNION ALL
  SELECT t.xmin FROM pg_catalog.pg_type t WHERE t.oid OPERATOR(pg_catalog.>=) '16384' AND t.typrelid OPERATOR(pg_catalog.=) '0'
  UNION ALL
  SELECT o.xmin FROM pg_catalog.pg_operator o WHERE o.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT w.xmin FROM pg_catalog.pg_rewrite w WHERE w.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT d.xmin FROM pg_catalog.pg_attrdef d
  UNION ALL
  SELECT c.xmin FROM pg_catalog.pg_constraint c WHERE c.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT p.xmin FROM pg_catalog.pg_policy p
  UNION ALL
  SELECT t.xmin FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal OR t.tgfoid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT e.xmin FROM pg_catalog.pg_event_trigger e
  UNION ALL
  SELECT i.xmin FROM pg_catalog.pg_inherits i
  UNION ALL
  SELECT i.xmin FROM pg_catalog.pg_index i WHERE i.indexrelid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT c.xmin FROM pg_catalog.pg_cast c WHERE c.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT a.xmin FROM pg_catalog.pg_amproc a WHERE a.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT a.xmin FROM pg_catalog.pg_amop a WHERE a.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT o.xmin FROM pg_catalog.pg_opclass o WHERE o.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT a.xmin FROM pg_catalog.pg_am a WHERE a.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT t.xmin FROM pg_catalog.pg_ts_template t WHERE t.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT p.xmin FROM pg_catalog.pg_ts_parser p WHERE p.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT c.xmin FROM pg_catalog.pg_conversion c WHERE c.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT e.xmin FROM pg_catalog.pg_extension e
) r
