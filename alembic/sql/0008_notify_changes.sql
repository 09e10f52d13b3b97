-- When a change to public data is committed, triggers send a notification on the channel
-- "changes", so that every process removes the affected responses from its cache. The
-- payload contains the ids of the changed posts. Every notification also removes all
-- responses other than single posts, and an empty payload removes only those. The payload
-- "*" removes everything. Blank lines separate the statements.
CREATE OR REPLACE FUNCTION notify_changed_posts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ids text;
BEGIN
    -- A payload must be shorter than 8000 bytes.
    SELECT CASE WHEN count(*) <= 500 THEN string_agg(id::text, ' ') ELSE '*' END
    INTO ids FROM changed;
    IF ids IS NOT NULL THEN
        PERFORM pg_notify('changes', ids);
    END IF;
    RETURN NULL;
END $$

CREATE TRIGGER notify_inserted_posts AFTER INSERT ON posts
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION notify_changed_posts()

CREATE TRIGGER notify_updated_posts AFTER UPDATE ON posts
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION notify_changed_posts()

CREATE TRIGGER notify_deleted_posts AFTER DELETE ON posts
REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION notify_changed_posts()

CREATE OR REPLACE FUNCTION notify_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('changes', TG_ARGV[0]);
    RETURN NULL;
END $$

CREATE TRIGGER notify_truncated_posts AFTER TRUNCATE ON posts
FOR EACH STATEMENT EXECUTE FUNCTION notify_change('*')

-- The list of users contains every profile.
CREATE TRIGGER notify_users AFTER INSERT OR DELETE ON users
FOR EACH ROW EXECUTE FUNCTION notify_change('')

-- Every post shows its author's name and picture.
CREATE TRIGGER notify_updated_user AFTER UPDATE ON users
FOR EACH ROW WHEN (
    OLD.username <> NEW.username OR OLD.image_file IS DISTINCT FROM NEW.image_file
) EXECUTE FUNCTION notify_change('*')
