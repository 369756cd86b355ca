-- Tells this store from another one of the same name, in another database.
ALTER TABLE perdure.meta ADD COLUMN store_id uuid NOT NULL DEFAULT gen_random_uuid();
