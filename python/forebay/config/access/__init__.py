"""Who may log in how: pg_hba.conf, pg_ident.conf, and the directories and services that judge passwords."""
