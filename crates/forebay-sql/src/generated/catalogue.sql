WITH RECURSIVE listed (names) AS (
  SELECT '{amvalidate,array_in,array_recv,binary_upgrade_add_sub_rel_state,binary_upgrade_create_empty_extension,binary_upgrade_logical_slot_has_caught_up,binary_upgrade_replorigin_advance,binary_upgrade_set_missing_value,binary_upgrade_set_next_array_pg_type_oid,binary_upgrade_set_next_heap_pg_class_oid,binary_upgrade_set_next_heap_relfilenode,binary_upgrade_set_next_index_pg_class_oid,binary_upgrade_set_next_index_relfilenode,binary_upgrade_set_next_multirange_array_pg_type_oid,binary_upgrade_set_next_multirange_pg_type_oid,binary_upgrade_set_next_pg_authid_oid,binary_upgrade_set_next_pg_enum_oid,binary_upgrade_set_next_pg_tablespace_oid,binary_upgrade_set_next_pg_type_oid,binary_upgrade_set_next_toast_pg_class_oid,binary_upgrade_set_next_toast_relfilenode,binary_upgrade_set_record_init_privs,brin_desummarize_range,brin_summarize_new_values,brin_summarize_range,currval,cursor_to_xml,cursor_to_xmlschema,database_to_xml,database_to_xml_and_xmlschema,database_to_xmlschema,domain_in,domain_recv,fmgr_c_validator,fmgr_internal_validator,fmgr_sql_validator,gin_clean_pending_list,inet_server_addr,inet_server_port,lastval,lo_creat,lo_create,lo_export,lo_from_bytea,lo_import,lo_open,lo_put,lo_truncate,lo_truncate64,lo_unlink,loread,lowrite,multirange_in,multirange_recv,nextval,pg_advisory_lock,pg_advisory_lock_shared,pg_advisory_unlock,pg_advisory_unlock_all,pg_advisory_unlock_shared,pg_advisory_xact_lock,pg_advisory_xact_lock_shared,pg_available_wal_summaries,pg_backend_pid,pg_backup_start,pg_backup_stop,pg_blocking_pids,pg_cancel_backend,pg_clear_attribute_stats,pg_clear_relation_stats,pg_conf_load_time,pg_control_checkpoint,pg_control_init,pg_control_recovery,pg_control_system,pg_copy_logical_replication_slot,pg_copy_physical_replication_slot,pg_create_logical_replication_slot,pg_create_physical_replication_slot,pg_create_restore_point,pg_current_logfile,pg_current_wal_flush_lsn,pg_current_wal_insert_lsn,pg_current_wal_lsn,pg_current_xact_id,pg_drop_replication_slot,pg_export_snapshot,pg_extension_config_dump,pg_get_backend_memory_contexts,pg_get_replication_slots,pg_get_shmem_allocations,pg_get_shmem_allocations_numa,pg_get_wal_replay_pause_state,pg_get_wal_summarizer_state,pg_hba_file_rules,pg_ident_file_mappings,pg_import_system_collations,pg_input_error_info,pg_input_is_valid,pg_is_in_recovery,pg_is_wal_replay_paused,pg_isolation_test_session_is_blocked,pg_last_committed_xact,pg_last_wal_receive_lsn,pg_last_wal_replay_lsn,pg_last_xact_replay_timestamp,pg_listening_channels,pg_lock_status,pg_log_backend_memory_contexts,pg_log_standby_snapshot,pg_logical_emit_message,pg_logical_slot_get_binary_changes,pg_logical_slot_get_changes,pg_logical_slot_peek_binary_changes,pg_logical_slot_peek_changes,pg_ls_archive_statusdir,pg_ls_dir,pg_ls_logdir,pg_ls_logicalmapdir,pg_ls_logicalsnapdir,pg_ls_replslotdir,pg_ls_summariesdir,pg_ls_tmpdir,pg_ls_waldir,pg_my_temp_schema,pg_nextoid,pg_notification_queue_usage,pg_notify,pg_numa_available,pg_postmaster_start_time,pg_prepared_xact,pg_promote,pg_read_binary_file,pg_read_file,pg_reload_conf,pg_replication_origin_advance,pg_replication_origin_create,pg_replication_origin_drop,pg_replication_origin_session_reset,pg_replication_origin_session_setup,pg_replication_origin_xact_reset,pg_replication_origin_xact_setup,pg_replication_slot_advance,pg_restore_attribute_stats,pg_restore_relation_stats,pg_rotate_logfile,pg_safe_snapshot_blocking_pids,pg_show_all_file_settings,pg_show_all_settings,pg_split_walfile_name,pg_start_backup,pg_stat_clear_snapshot,pg_stat_file,pg_stat_force_next_flush,pg_stat_have_stats,pg_stat_reset,pg_stat_reset_backend_stats,pg_stat_reset_replication_slot,pg_stat_reset_shared,pg_stat_reset_single_function_counters,pg_stat_reset_single_table_counters,pg_stat_reset_slru,pg_stat_reset_subscription_stats,pg_stop_backup,pg_stop_making_pinned_objects,pg_switch_wal,pg_sync_replication_slots,pg_terminate_backend,pg_try_advisory_lock,pg_try_advisory_lock_shared,pg_try_advisory_xact_lock,pg_try_advisory_xact_lock_shared,pg_wal_replay_pause,pg_wal_replay_resume,pg_wal_summary_contents,pg_walfile_name,pg_walfile_name_offset,pg_xact_commit_timestamp,pg_xact_commit_timestamp_origin,pg_xact_status,plpgsql_validator,query_to_xml,query_to_xml_and_xmlschema,query_to_xmlschema,range_in,range_recv,record_in,record_recv,satisfies_hash_partition,schema_to_xml,schema_to_xml_and_xmlschema,schema_to_xmlschema,set_config,setseed,setval,table_to_xml,table_to_xml_and_xmlschema,table_to_xmlschema,ts_rewrite,ts_stat,txid_current,txid_status}'::pg_catalog.name[]
), own (oid, name) AS MATERIALIZED (
  SELECT p.oid::pg_catalog.text, p.proname::pg_catalog.text
  FROM listed JOIN pg_catalog.pg_proc p ON p.proname OPERATOR(pg_catalog.=) ANY (listed.names)
  WHERE p.oid OPERATOR(pg_catalog.<) '16384'
), unlogged (oid) AS (
  SELECT c.oid FROM pg_catalog.pg_class c
  WHERE c.oid OPERATOR(pg_catalog.>=) '16384' AND c.relpersistence OPERATOR(pg_catalog.=) 'u' AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,m,S}')
  UNION
  SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN unlogged ON unlogged.oid OPERATOR(pg_catalog.=) i.inhrelid
), part (class, id, owner, why, reach, tree) AS (
  SELECT '1255'::pg_catalog.oid, p.oid, 'f' OPERATOR(pg_catalog.||) p.oid::pg_catalog.text, 'body',
    CASE WHEN b.tree OPERATOR(pg_catalog.~) ':commandType [2-9]' THEN 'w' ELSE 'r' END,
    pg_catalog.concat(p.proargdefaults::pg_catalog.text, b.tree)
  FROM pg_catalog.pg_proc p, LATERAL (
    SELECT CASE WHEN p.prolang OPERATOR(pg_catalog.=) '14' AND p.prosrc OPERATOR(pg_catalog.=) '' THEN
      pg_catalog.jsonb_object_field_text(pg_catalog.to_jsonb(p), 'prosqlbody') END AS tree
  ) b
  WHERE p.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT '1247', t.oid, 't' OPERATOR(pg_catalog.||) t.oid::pg_catalog.text, 'type', 'r', t.typdefaultbin::pg_catalog.text
  FROM pg_catalog.pg_type t
  WHERE t.oid OPERATOR(pg_catalog.>=) '16384' AND t.typrelid OPERATOR(pg_catalog.=) '0'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray OPERATOR(pg_catalog.=) t.oid)
  UNION ALL
  SELECT '2617', o.oid, 'o' OPERATOR(pg_catalog.||) o.oid::pg_catalog.text, 'function', 'r', NULL
  FROM pg_catalog.pg_operator o WHERE o.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT '1259', c.oid, k.letter OPERATOR(pg_catalog.||) c.oid::pg_catalog.text, 'column or partition key', 'r', p.partexprs::pg_catalog.text
  FROM pg_catalog.pg_class c
  JOIN (VALUES ('r'), ('k')) k (letter) ON k.letter OPERATOR(pg_catalog.=) 'r' OR c.relkind OPERATOR(pg_catalog.=) 'p'
  LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid OPERATOR(pg_catalog.=) c.oid
  WHERE c.oid OPERATOR(pg_catalog.>=) '16384' AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,c}')
  UNION ALL
  SELECT '1259', i.indexrelid, 'r' OPERATOR(pg_catalog.||) i.indrelid::pg_catalog.text, 'index', 'r',
    pg_catalog.concat(i.indexprs::pg_catalog.text, i.indpred::pg_catalog.text)
  FROM pg_catalog.pg_index i WHERE i.indexrelid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT '2618', w.oid, CASE WHEN w.ev_type OPERATOR(pg_catalog.=) '1' THEN 'r' ELSE 'w' END OPERATOR(pg_catalog.||) w.ev_class::pg_catalog.text,
    CASE WHEN w.ev_type OPERATOR(pg_catalog.=) '1' THEN 'view' ELSE 'rule' END,
    CASE WHEN w.ev_type OPERATOR(pg_catalog.=) '1' THEN 'b' ELSE 'w' END, pg_catalog.concat(w.ev_qual::pg_catalog.text, w.ev_action::pg_catalog.text)
  FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) w.ev_class
  WHERE w.oid OPERATOR(pg_catalog.>=) '16384' AND c.relkind OPERATOR(pg_catalog.<>) 'm'
  UNION ALL
  SELECT '2604', d.oid, CASE WHEN a.attgenerated OPERATOR(pg_catalog.=) '' THEN 'w' ELSE 'r' END OPERATOR(pg_catalog.||) d.adrelid::pg_catalog.text,
    CASE WHEN a.attgenerated OPERATOR(pg_catalog.=) '' THEN 'default' ELSE 'generated column' END, 'r', d.adbin::pg_catalog.text
  FROM pg_catalog.pg_attrdef d
  JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) d.adrelid AND a.attnum OPERATOR(pg_catalog.=) d.adnum
  WHERE d.adrelid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT '2606', c.oid, CASE WHEN c.contypid OPERATOR(pg_catalog.=) '0' THEN 'r' OPERATOR(pg_catalog.||) c.conrelid::pg_catalog.text ELSE 't' OPERATOR(pg_catalog.||) c.contypid::pg_catalog.text END,
    'constraint', 'r', c.conbin::pg_catalog.text
  FROM pg_catalog.pg_constraint c WHERE c.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT '3256', p.oid, 'r' OPERATOR(pg_catalog.||) p.polrelid::pg_catalog.text, 'row security policy', 'r',
    pg_catalog.concat(p.polqual::pg_catalog.text, p.polwithcheck::pg_catalog.text)
  FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.polrelid
  WHERE c.relrowsecurity
  UNION ALL
  SELECT '2620', t.oid, 'w' OPERATOR(pg_catalog.||) t.tgrelid::pg_catalog.text, 'trigger', 'r', t.tgqual::pg_catalog.text
  FROM pg_catalog.pg_trigger t WHERE t.tgrelid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT '3466', e.oid, 'd', 'event trigger', 'r', NULL
  FROM pg_catalog.pg_event_trigger e WHERE e.evtevent OPERATOR(pg_catalog.<>) 'login'
)
SELECT 'function', p.oid::pg_catalog.text, p.proname::pg_catalog.text,
  CASE WHEN p.prokind OPERATOR(pg_catalog.=) 'a' THEN 'aggregate'
    WHEN p.prolang OPERATOR(pg_catalog.=) '14' AND p.prosrc OPERATOR(pg_catalog.=) ''
      AND pg_catalog.jsonb_object_field_text(pg_catalog.to_jsonb(p), 'prosqlbody') IS NOT NULL THEN 'tree'
    WHEN p.prolang OPERATOR(pg_catalog.=) '12' AND p.prosrc OPERATOR(pg_catalog.=) ANY ('{range_constructor2,range_constructor3,multirange_constructor0,
      multirange_constructor1,multirange_constructor2}') THEN 'tree'
    ELSE l.lanname::pg_catalog.text END,
  e.extname::pg_catalog.text,
  CASE WHEN l.lanname OPERATOR(pg_catalog.=) ANY ('{sql,plpgsql}') AND pg_catalog.octet_length(p.prosrc) OPERATOR(pg_catalog.<=) 65536 THEN p.prosrc END
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
LEFT JOIN pg_catalog.pg_depend d
  ON d.classid OPERATOR(pg_catalog.=) '1255' AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.refclassid OPERATOR(pg_catalog.=) '3079' AND d.deptype OPERATOR(pg_catalog.=) 'e'
LEFT JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
WHERE p.oid OPERATOR(pg_catalog.>=) '16384'
UNION ALL
SELECT 'relation', c.oid::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text, c.reltype::pg_catalog.text, t.typarray::pg_catalog.text
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) c.reltype
WHERE c.oid OPERATOR(pg_catalog.>=) '16384' AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S,c}') AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
UNION ALL
SELECT 'unlogged', oid::pg_catalog.text, NULL, NULL, NULL, NULL FROM unlogged
UNION ALL
SELECT 'type', t.oid::pg_catalog.text, t.typname::pg_catalog.text, t.typtype::pg_catalog.text, t.typarray::pg_catalog.text, NULL
FROM pg_catalog.pg_type t
WHERE t.oid OPERATOR(pg_catalog.>=) '16384' AND t.typrelid OPERATOR(pg_catalog.=) '0'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray OPERATOR(pg_catalog.=) t.oid)
UNION ALL
SELECT 'operator', o.oid::pg_catalog.text, o.oprname::pg_catalog.text, o.oprleft::pg_catalog.text, o.oprright::pg_catalog.text, NULL
FROM pg_catalog.pg_operator o WHERE o.oid OPERATOR(pg_catalog.>=) '16384'
UNION ALL
SELECT DISTINCT 'edge', p.owner, k.letter OPERATOR(pg_catalog.||) d.refobjid::pg_catalog.text, p.why, p.reach, NULL::pg_catalog.text
FROM part p
JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) p.class AND d.objid OPERATOR(pg_catalog.=) p.id
JOIN (VALUES ('1255'::pg_catalog.oid, 'f'), ('1259', 'r'), ('1247', 't'), ('2617', 'o')) k (class, letter)
  ON k.class OPERATOR(pg_catalog.=) d.refclassid
WHERE d.refobjid OPERATOR(pg_catalog.>=) '16384' AND (k.letter OPERATOR(pg_catalog.<>) 'r' OR p.class OPERATOR(pg_catalog.=) ANY ('{2618,1255,3256}'))
UNION ALL
SELECT DISTINCT 'own', f.owner, own.name, f.why, NULL, NULL
FROM (
  SELECT p.owner, p.why, m.found[1]
  FROM part p, LATERAL pg_catalog.regexp_matches(p.tree, ':(?:funcid|aggfnoid|winfnoid) ([0-9]+) ', 'g') m (found)
  WHERE p.tree IS NOT NULL
) f (owner, why, oid)
JOIN own ON own.oid OPERATOR(pg_catalog.=) f.oid
UNION ALL
SELECT 'own', p.owner, 'pg_notify', p.why, NULL, NULL
FROM part p WHERE p.class OPERATOR(pg_catalog.=) '2618' AND p.tree OPERATOR(pg_catalog.~) ':utilityStmt [{]'
UNION ALL
SELECT DISTINCT 'own', 'w' OPERATOR(pg_catalog.||) a.attrelid::pg_catalog.text, 'nextval', 'identity column', NULL, NULL
FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.>=) '16384' AND a.attidentity OPERATOR(pg_catalog.<>) ''
UNION ALL
SELECT 'edge', 'r' OPERATOR(pg_catalog.||) i.inhparent::pg_catalog.text, 'r' OPERATOR(pg_catalog.||) i.inhrelid::pg_catalog.text, 'partition or child', 'b', NULL
FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,f}')
UNION ALL
SELECT 'edge', k.letter OPERATOR(pg_catalog.||) i.inhrelid::pg_catalog.text, 'k' OPERATOR(pg_catalog.||) i.inhparent::pg_catalog.text, 'partition key', 'r', NULL
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
JOIN (VALUES ('r'), ('k')) k (letter) ON k.letter OPERATOR(pg_catalog.=) 'r' OR c.relkind OPERATOR(pg_catalog.=) 'p'
WHERE c.relispartition AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,f}')
UNION ALL
SELECT 'edge', 'w' OPERATOR(pg_catalog.||) c.confrelid::pg_catalog.text, 'r' OPERATOR(pg_catalog.||) c.conrelid::pg_catalog.text, 'foreign key', 'w', NULL
FROM pg_catalog.pg_constraint c WHERE c.contype OPERATOR(pg_catalog.=) 'f'
UNION ALL
SELECT 'edge', 'w' OPERATOR(pg_catalog.||) c.conrelid::pg_catalog.text, 'r' OPERATOR(pg_catalog.||) c.confrelid::pg_catalog.text, 'foreign key', 'r', NULL
FROM pg_catalog.pg_constraint c WHERE c.contype OPERATOR(pg_catalog.=) 'f'
UNION ALL
SELECT 'edge', CASE WHEN s.type OPERATOR(pg_catalog.>=) '16384' THEN 't' OPERATOR(pg_catalog.||) s.type::pg_catalog.text ELSE 'a' END, 'f' OPERATOR(pg_catalog.||) c.castfunc::pg_catalog.text,
  'cast', 'r', NULL
FROM pg_catalog.pg_cast c, LATERAL (
  SELECT CASE WHEN c.castsource OPERATOR(pg_catalog.>=) '16384' THEN c.castsource ELSE c.casttarget END
  UNION ALL
  SELECT CASE WHEN c.casttarget OPERATOR(pg_catalog.>=) '16384' THEN c.casttarget ELSE c.castsource END
) s (type)
WHERE c.castfunc OPERATOR(pg_catalog.>=) '16384'
UNION ALL
SELECT 'edge', 't' OPERATOR(pg_catalog.||) c.castsource::pg_catalog.text, 't' OPERATOR(pg_catalog.||) c.casttarget::pg_catalog.text, 'cast', 'r', NULL
FROM pg_catalog.pg_cast c WHERE c.castsource OPERATOR(pg_catalog.>=) '16384' AND c.casttarget OPERATOR(pg_catalog.>=) '16384'
UNION ALL
SELECT DISTINCT 'edge', CASE WHEN f.type OPERATOR(pg_catalog.>=) '16384' THEN 't' OPERATOR(pg_catalog.||) f.type::pg_catalog.text ELSE 'a' END, f.target,
  'operator class', 'r', NULL
FROM (
  SELECT p.amprocfamily, p.amproclefttype, 'f' OPERATOR(pg_catalog.||) p.amproc::pg_catalog.oid::pg_catalog.text FROM pg_catalog.pg_amproc p
  WHERE p.amproc::pg_catalog.oid OPERATOR(pg_catalog.>=) '16384'
  UNION ALL
  SELECT o.amopfamily, o.amoplefttype, 'o' OPERATOR(pg_catalog.||) o.amopopr::pg_catalog.text FROM pg_catalog.pg_amop o WHERE o.amopopr OPERATOR(pg_catalog.>=) '16384'
) f (family, type, target)
JOIN pg_catalog.pg_opfamily m ON m.oid OPERATOR(pg_catalog.=) f.family
WHERE f.type OPERATOR(pg_catalog.>=) '16384' OR m.opfmethod OPERATOR(pg_catalog.=) ANY ('{403,405}')
UNION ALL
SELECT DISTINCT 'edge', 'r' OPERATOR(pg_catalog.||) i.indrelid::pg_catalog.text, 'f' OPERATOR(pg_catalog.||) p.amproc::pg_catalog.oid::pg_catalog.text, 'index', 'r', NULL
FROM (
  SELECT x.indrelid, pg_catalog.unnest(x.indclass::pg_catalog.oid[]) FROM pg_catalog.pg_index x WHERE x.indexrelid OPERATOR(pg_catalog.>=) '16384'
) i (indrelid, class)
JOIN pg_catalog.pg_opclass c ON c.oid OPERATOR(pg_catalog.=) i.class
JOIN pg_catalog.pg_amproc p ON p.amprocfamily OPERATOR(pg_catalog.=) c.opcfamily
WHERE p.amproc::pg_catalog.oid OPERATOR(pg_catalog.>=) '16384'
UNION ALL
SELECT DISTINCT 'edge', 'r' OPERATOR(pg_catalog.||) COALESCE(i.indrelid, c.oid)::pg_catalog.text, 'f' OPERATOR(pg_catalog.||) a.amhandler::pg_catalog.oid::pg_catalog.text,
  'access method', 'r', NULL
FROM pg_catalog.pg_am a
JOIN pg_catalog.pg_class c ON c.relam OPERATOR(pg_catalog.=) a.oid
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid OPERATOR(pg_catalog.=) c.oid
WHERE a.amhandler::pg_catalog.oid OPERATOR(pg_catalog.>=) '16384'
UNION ALL
SELECT DISTINCT 'edge', 'a', 'f' OPERATOR(pg_catalog.||) f.id::pg_catalog.text, 'text search or conversion', 'r', NULL
FROM (
  SELECT pg_catalog.unnest(ARRAY[
    s.prsstart::pg_catalog.oid, s.prstoken::pg_catalog.oid, s.prsend::pg_catalog.oid, s.prsheadline::pg_catalog.oid, s.prslextype::pg_catalog.oid
  ])
  FROM pg_catalog.pg_ts_parser s
  UNION ALL
  SELECT pg_catalog.unnest(ARRAY[t.tmplinit::pg_catalog.oid, t.tmpllexize::pg_catalog.oid]) FROM pg_catalog.pg_ts_template t
  UNION ALL
  SELECT c.conproc::pg_catalog.oid FROM pg_catalog.pg_conversion c
) f (id)
WHERE f.id OPERATOR(pg_catalog.>=) '16384'
