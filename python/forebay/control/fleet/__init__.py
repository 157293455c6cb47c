"""Several forebays that share decisions through leases in etcd; `node` says how."""
