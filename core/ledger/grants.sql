-- What the service may do. It adds to what happened, and never changes it.
GRANT USAGE ON SCHEMA stockade TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA stockade TO {role};
GRANT INSERT ON stockade.movement, stockade.balance, stockade.reservation_version,
  stockade.policy_version, stockade.audit, stockade.rebuild, stockade.rebuild_end TO {role};
GRANT INSERT, UPDATE ON stockade.mark, stockade.pool, stockade.reservation, stockade.import
  TO {role};
GRANT INSERT, UPDATE, DELETE ON stockade.policy TO {role};
GRANT INSERT, DELETE ON stockade.idempotency_keys TO {role};
REVOKE EXECUTE ON FUNCTION stockade.open_month(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION stockade.open_month(date) TO {role};
GRANT INSERT ON stockade.drift TO {role};
GRANT INSERT, UPDATE ON stockade.reconciliation, stockade.reconciliation_case, stockade.verified
  TO {role};
REVOKE EXECUTE ON FUNCTION stockade.forget(integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION stockade.forget(integer, integer) TO {role};
-- Keys are made and ended by whoever runs the service; what one may do is never widened.
GRANT INSERT, UPDATE (hash, former_hash, former_until, rotated_at, revoked_at)
  ON stockade.api_key TO {role};
