-- Triggers count the posts of each author, and those of the whole site as user 0, in the
-- same transaction as each change. A count is the sum of up to 16 rows (shards), so that
-- concurrent writers rarely wait for each other. Blank lines separate the statements.
CREATE OR REPLACE FUNCTION count_posts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Update rows in a fixed order to prevent deadlocks, and ignore deleted authors.
    INSERT INTO post_counts AS count (user_id, shard, posts)
    SELECT
        coalesce(user_id, 0),
        pg_backend_pid() % 16,
        count(*) * CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END
    FROM changed
    GROUP BY GROUPING SETS ((user_id), ())
    HAVING count(*) > 0 AND (
        user_id IS NULL OR EXISTS (SELECT FROM users WHERE id = changed.user_id)
    )
    ORDER BY 1
    ON CONFLICT (user_id, shard) DO UPDATE SET posts = count.posts + excluded.posts;
    RETURN NULL;
END $$

CREATE TRIGGER count_inserted_posts AFTER INSERT ON posts
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_posts()

CREATE TRIGGER count_deleted_posts AFTER DELETE ON posts
REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_posts()

CREATE OR REPLACE FUNCTION count_moved_post() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO post_counts AS count (user_id, shard, posts)
    SELECT user_id, pg_backend_pid() % 16, difference
    FROM (VALUES (OLD.user_id, -1), (NEW.user_id, 1)) AS moved (user_id, difference)
    ORDER BY user_id
    ON CONFLICT (user_id, shard) DO UPDATE SET posts = count.posts + excluded.posts;
    RETURN NULL;
END $$

CREATE TRIGGER count_moved_post AFTER UPDATE OF user_id ON posts
FOR EACH ROW WHEN (OLD.user_id <> NEW.user_id) EXECUTE FUNCTION count_moved_post()

CREATE OR REPLACE FUNCTION delete_post_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM post_counts WHERE TG_OP = 'TRUNCATE' OR user_id = OLD.id;
    RETURN NULL;
END $$

CREATE TRIGGER delete_all_post_counts AFTER TRUNCATE ON posts
FOR EACH STATEMENT EXECUTE FUNCTION delete_post_counts()

CREATE TRIGGER delete_post_counts_of_user AFTER DELETE ON users
FOR EACH ROW EXECUTE FUNCTION delete_post_counts()

-- Recounts all posts, and returns the counts that were wrong.
CREATE OR REPLACE FUNCTION recount_posts()
RETURNS TABLE (author_id integer, stored bigint, counted bigint) LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE posts IN SHARE ROW EXCLUSIVE MODE;
    CREATE TEMPORARY TABLE recounted ON COMMIT DROP AS
    SELECT coalesce(user_id, 0) AS user_id, count(*) AS posts
    FROM posts GROUP BY GROUPING SETS ((user_id), ());
    RETURN QUERY
    SELECT user_id, coalesce(old.posts, 0)::bigint, coalesce(new.posts, 0)
    FROM (SELECT c.user_id, sum(c.posts) AS posts FROM post_counts AS c GROUP BY 1) AS old
    FULL JOIN recounted AS new USING (user_id)
    WHERE coalesce(old.posts, 0) <> coalesce(new.posts, 0)
    ORDER BY 1;
    DELETE FROM post_counts;
    INSERT INTO post_counts (user_id, shard, posts)
    SELECT recounted.user_id, 0, recounted.posts FROM recounted;
END $$
