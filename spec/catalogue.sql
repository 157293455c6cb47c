-- What the server is asked for its objects and what they reach; see crates/forebay-sql/src/catalogue.rs.
--
-- tools/gen.py qualifies operators and casts, and puts the names of functions.toml in. Other names are qualified here.
WITH RECURSIVE listed (names) AS (
  SELECT '{:functions}'::name[]
), own (oid, name) AS MATERIALIZED (
  -- PostgreSQL's own functions that leave something behind, as the trees below name them.
  SELECT p.oid::text, p.proname::text
  FROM listed JOIN pg_catalog.pg_proc p ON p.proname = ANY (listed.names)
  WHERE p.oid < '16384'
), unlogged (oid) AS (
  -- Tables of which a standby has nothing, and those that are read with one.
  SELECT c.oid FROM pg_catalog.pg_class c
  WHERE c.oid >= '16384' AND c.relpersistence = 'u' AND c.relkind = ANY ('{r,p,m,S}')
  UNION
  SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN unlogged ON unlogged.oid = i.inhrelid
), part (class, id, owner, why, reach, tree) AS (
  -- What runs when its owner is used: its catalogue, its id, the owner, what it is, how it reaches relations.
  -- reach: r reads them, w writes to them, b is as the owner: reads for a read and writes for a write.
  SELECT '1255'::oid, p.oid, 'f' || p.oid::text, 'body',
    CASE WHEN b.tree ~ ':commandType [2-9]' THEN 'w' ELSE 'r' END,
    pg_catalog.concat(p.proargdefaults::text, b.tree)
  FROM pg_catalog.pg_proc p, LATERAL (
    SELECT CASE WHEN p.prolang = '14' AND p.prosrc = '' THEN
      pg_catalog.jsonb_object_field_text(pg_catalog.to_jsonb(p), 'prosqlbody') END AS tree
  ) b
  WHERE p.oid >= '16384'
  UNION ALL
  SELECT '1247', t.oid, 't' || t.oid::text, 'type', 'r', t.typdefaultbin::text
  FROM pg_catalog.pg_type t
  WHERE t.oid >= '16384' AND t.typrelid = '0'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)
  UNION ALL
  SELECT '2617', o.oid, 'o' || o.oid::text, 'function', 'r', NULL
  FROM pg_catalog.pg_operator o WHERE o.oid >= '16384'
  UNION ALL
  SELECT '1259', c.oid, k.letter || c.oid::text, 'column or partition key', 'r', p.partexprs::text
  FROM pg_catalog.pg_class c
  JOIN (VALUES ('r'), ('k')) k (letter) ON k.letter = 'r' OR c.relkind = 'p'
  LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid
  WHERE c.oid >= '16384' AND c.relkind = ANY ('{r,p,v,m,f,c}')
  UNION ALL
  SELECT '1259', i.indexrelid, 'r' || i.indrelid::text, 'index', 'r',
    pg_catalog.concat(i.indexprs::text, i.indpred::text)
  FROM pg_catalog.pg_index i WHERE i.indexrelid >= '16384'
  UNION ALL
  SELECT '2618', w.oid, CASE WHEN w.ev_type = '1' THEN 'r' ELSE 'w' END || w.ev_class::text,
    CASE WHEN w.ev_type = '1' THEN 'view' ELSE 'rule' END,
    CASE WHEN w.ev_type = '1' THEN 'b' ELSE 'w' END, pg_catalog.concat(w.ev_qual::text, w.ev_action::text)
  FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class
  WHERE w.oid >= '16384' AND c.relkind <> 'm'
  UNION ALL
  SELECT '2604', d.oid, CASE WHEN a.attgenerated = '' THEN 'w' ELSE 'r' END || d.adrelid::text,
    CASE WHEN a.attgenerated = '' THEN 'default' ELSE 'generated column' END, 'r', d.adbin::text
  FROM pg_catalog.pg_attrdef d
  JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
  WHERE d.adrelid >= '16384'
  UNION ALL
  SELECT '2606', c.oid, CASE WHEN c.contypid = '0' THEN 'r' || c.conrelid::text ELSE 't' || c.contypid::text END,
    'constraint', 'r', c.conbin::text
  FROM pg_catalog.pg_constraint c WHERE c.oid >= '16384'
  UNION ALL
  SELECT '3256', p.oid, 'r' || p.polrelid::text, 'row security policy', 'r',
    pg_catalog.concat(p.polqual::text, p.polwithcheck::text)
  FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
  WHERE c.relrowsecurity
  UNION ALL
  SELECT '2620', t.oid, 'w' || t.tgrelid::text, 'trigger', 'r', t.tgqual::text
  FROM pg_catalog.pg_trigger t WHERE t.tgrelid >= '16384'
  UNION ALL
  SELECT '3466', e.oid, 'd', 'event trigger', 'r', NULL
  FROM pg_catalog.pg_event_trigger e WHERE e.evtevent <> 'login'
)
SELECT 'function', p.oid::text, p.proname::text,
  CASE WHEN p.prokind = 'a' THEN 'aggregate'
    WHEN p.prolang = '14' AND p.prosrc = ''
      AND pg_catalog.jsonb_object_field_text(pg_catalog.to_jsonb(p), 'prosqlbody') IS NOT NULL THEN 'tree'
    -- Made with a range type; what they call belongs to the type.
    WHEN p.prolang = '12' AND p.prosrc = ANY ('{range_constructor2,range_constructor3,multirange_constructor0,
      multirange_constructor1,multirange_constructor2}') THEN 'tree'
    ELSE l.lanname::text END,
  e.extname::text,
  CASE WHEN l.lanname = ANY ('{sql,plpgsql}') AND pg_catalog.octet_length(p.prosrc) <= 65536 THEN p.prosrc END
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
LEFT JOIN pg_catalog.pg_depend d
  ON d.classid = '1255' AND d.objid = p.oid AND d.refclassid = '3079' AND d.deptype = 'e'
LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE p.oid >= '16384'
UNION ALL
SELECT 'relation', c.oid::text, c.relname::text, c.relkind::text, c.reltype::text, t.typarray::text
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_type t ON t.oid = c.reltype
WHERE c.oid >= '16384' AND c.relkind = ANY ('{r,p,v,m,f,S,c}') AND c.relpersistence <> 't'
UNION ALL
SELECT 'unlogged', oid::text, NULL, NULL, NULL, NULL FROM unlogged
UNION ALL
SELECT 'type', t.oid::text, t.typname::text, t.typtype::text, t.typarray::text, NULL
FROM pg_catalog.pg_type t
WHERE t.oid >= '16384' AND t.typrelid = '0'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)
UNION ALL
SELECT 'operator', o.oid::text, o.oprname::text, o.oprleft::text, o.oprright::text, NULL
FROM pg_catalog.pg_operator o WHERE o.oid >= '16384'
UNION ALL
SELECT DISTINCT 'edge', p.owner, k.letter || d.refobjid::text, p.why, p.reach, NULL::text
FROM part p
JOIN pg_catalog.pg_depend d ON d.classid = p.class AND d.objid = p.id
JOIN (VALUES ('1255'::oid, 'f'), ('1259', 'r'), ('1247', 't'), ('2617', 'o')) k (class, letter)
  ON k.class = d.refclassid
WHERE d.refobjid >= '16384' AND (k.letter <> 'r' OR p.class = ANY ('{2618,1255,3256}'))
UNION ALL
SELECT DISTINCT 'own', f.owner, own.name, f.why, NULL, NULL
FROM (
  SELECT p.owner, p.why, m.found[1]
  FROM part p, LATERAL pg_catalog.regexp_matches(p.tree, ':(?:funcid|aggfnoid|winfnoid) ([0-9]+) ', 'g') m (found)
  WHERE p.tree IS NOT NULL
) f (owner, why, oid)
JOIN own ON own.oid = f.oid
UNION ALL
-- The one command that a rule may have and that is no query.
SELECT 'own', p.owner, 'pg_notify', p.why, NULL, NULL
FROM part p WHERE p.class = '2618' AND p.tree ~ ':utilityStmt [{]'
UNION ALL
SELECT DISTINCT 'own', 'w' || a.attrelid::text, 'nextval', 'identity column', NULL, NULL
FROM pg_catalog.pg_attribute a WHERE a.attrelid >= '16384' AND a.attidentity <> ''
UNION ALL
SELECT 'edge', 'r' || i.inhparent::text, 'r' || i.inhrelid::text, 'partition or child', 'b', NULL
FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE c.relkind = ANY ('{r,p,f}')
UNION ALL
SELECT 'edge', k.letter || i.inhrelid::text, 'k' || i.inhparent::text, 'partition key', 'r', NULL
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
JOIN (VALUES ('r'), ('k')) k (letter) ON k.letter = 'r' OR c.relkind = 'p'
WHERE c.relispartition AND c.relkind = ANY ('{r,p,f}')
UNION ALL
SELECT 'edge', 'w' || c.confrelid::text, 'r' || c.conrelid::text, 'foreign key', 'w', NULL
FROM pg_catalog.pg_constraint c WHERE c.contype = 'f'
UNION ALL
SELECT 'edge', 'w' || c.conrelid::text, 'r' || c.confrelid::text, 'foreign key', 'r', NULL
FROM pg_catalog.pg_constraint c WHERE c.contype = 'f'
UNION ALL
-- Casts, operator classes and the like belong to the types they are for; those for PostgreSQL's own types may be met in
-- any statement.
SELECT 'edge', CASE WHEN s.type >= '16384' THEN 't' || s.type::text ELSE 'a' END, 'f' || c.castfunc::text,
  'cast', 'r', NULL
FROM pg_catalog.pg_cast c, LATERAL (
  SELECT CASE WHEN c.castsource >= '16384' THEN c.castsource ELSE c.casttarget END
  UNION ALL
  SELECT CASE WHEN c.casttarget >= '16384' THEN c.casttarget ELSE c.castsource END
) s (type)
WHERE c.castfunc >= '16384'
UNION ALL
SELECT 'edge', 't' || c.castsource::text, 't' || c.casttarget::text, 'cast', 'r', NULL
FROM pg_catalog.pg_cast c WHERE c.castsource >= '16384' AND c.casttarget >= '16384'
UNION ALL
SELECT DISTINCT 'edge', CASE WHEN f.type >= '16384' THEN 't' || f.type::text ELSE 'a' END, f.target,
  'operator class', 'r', NULL
FROM (
  SELECT p.amprocfamily, p.amproclefttype, 'f' || p.amproc::oid::text FROM pg_catalog.pg_amproc p
  WHERE p.amproc::oid >= '16384'
  UNION ALL
  SELECT o.amopfamily, o.amoplefttype, 'o' || o.amopopr::text FROM pg_catalog.pg_amop o WHERE o.amopopr >= '16384'
) f (family, type, target)
JOIN pg_catalog.pg_opfamily m ON m.oid = f.family
WHERE f.type >= '16384' OR m.opfmethod = ANY ('{403,405}')
UNION ALL
SELECT DISTINCT 'edge', 'r' || i.indrelid::text, 'f' || p.amproc::oid::text, 'index', 'r', NULL
FROM (
  SELECT x.indrelid, pg_catalog.unnest(x.indclass::oid[]) FROM pg_catalog.pg_index x WHERE x.indexrelid >= '16384'
) i (indrelid, class)
JOIN pg_catalog.pg_opclass c ON c.oid = i.class
JOIN pg_catalog.pg_amproc p ON p.amprocfamily = c.opcfamily
WHERE p.amproc::oid >= '16384'
UNION ALL
SELECT DISTINCT 'edge', 'r' || COALESCE(i.indrelid, c.oid)::text, 'f' || a.amhandler::oid::text,
  'access method', 'r', NULL
FROM pg_catalog.pg_am a
JOIN pg_catalog.pg_class c ON c.relam = a.oid
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE a.amhandler::oid >= '16384'
UNION ALL
SELECT DISTINCT 'edge', 'a', 'f' || f.id::text, 'text search or conversion', 'r', NULL
FROM (
  SELECT pg_catalog.unnest(ARRAY[
    s.prsstart::oid, s.prstoken::oid, s.prsend::oid, s.prsheadline::oid, s.prslextype::oid
  ])
  FROM pg_catalog.pg_ts_parser s
  UNION ALL
  SELECT pg_catalog.unnest(ARRAY[t.tmplinit::oid, t.tmpllexize::oid]) FROM pg_catalog.pg_ts_template t
  UNION ALL
  SELECT c.conproc::oid FROM pg_catalog.pg_conversion c
) f (id)
WHERE f.id >= '16384'
