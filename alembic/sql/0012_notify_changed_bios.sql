-- Every post shows its author's name and picture, and contains the bio in the API.
CREATE OR REPLACE TRIGGER notify_updated_user AFTER UPDATE ON users
FOR EACH ROW WHEN (
    OLD.username <> NEW.username OR OLD.image_file IS DISTINCT FROM NEW.image_file
    OR OLD.bio <> NEW.bio
) EXECUTE FUNCTION notify_change('*')
