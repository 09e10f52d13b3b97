-- Functions that prepare posts and queries for full-text search. Blank lines separate the
-- statements. Because the bodies are parsed here, restoring a dump doesn't depend on
-- search_path.
--
-- Returns a text in lower case, without accents, vowel points and invisible characters.
CREATE OR REPLACE FUNCTION fold_text(source text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN CASE
    WHEN octet_length(source) = length(source) THEN lower(source)
    ELSE translate(lower(normalize(regexp_replace(
        -- Normalization takes quadratic time for a run of combining marks, so split long
        -- runs of characters that are neither Latin nor Chinese, Japanese or Korean. A
        -- tsvector can't exceed 1 MiB. It takes at most 4 bytes per character. The ligature
        -- is by far the longest decomposition: 18 characters.
        left(normalize(regexp_replace(
            replace(source, 'ﷺ', ' '),
            '[^\u0001-\u02FF\u2E80-\u3029\u3030-\u3098\u309B-\uA4FF\uAC00-\uD7FF]{100}',
            '\& ', 'g'
        ), NFKD), 250000),
        '[\u00AD\u0300-\u036F\u0483-\u0489\u0591-\u05BD\u05BF\u05C1\u05C2\u05C4\u05C5\u05C7'
        '\u0610-\u061A\u064B-\u065F\u0670\u06D6-\u06DC\u06DF-\u06E4\u06E7\u06E8\u06EA-\u06ED'
        '\u1AB0-\u1AFF\u1DC0-\u1DFF\u200C-\u200F\u202A-\u202E\u2060-\u206F\u20D0-\u20FF'
        '\uFE00-\uFE0F\uFE20-\uFE2F\uFEFF]+',
        '', 'g'
    ), NFC)), 'ςłøđħı', 'σlodhi')
END

-- Returns the words of a post. The parser must not see punctuation that forms URLs, file
-- names, numbers or tags, and in some locales, it takes other punctuation for letters.
CREATE OR REPLACE FUNCTION search_vector(title text, content text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN to_tsvector('simple', regexp_replace(
    fold_text(left(title || ' ' || content, 100200)),
    '[-./@<>&+_~:#%=?\u007F-\u00A9\u00AB-\u00B1\u00B4\u00B6-\u00B8\u00BB\u00BF\u00D7\u00F7'
    '\u055A-\u055F\u0589\u058A\u05BE\u05C0\u05C3\u05C6\u05F3\u05F4\u060C\u061B\u061F'
    '\u066A-\u066D\u06D4\u0964\u0965\u0E5A\u0E5B\u1360-\u1368\u17D4-\u17D6\u2000-\u206F'
    '\u20A0-\u20CF\u2190-\u2BFF\u2E00-\u2E7F\u3000-\u3004\u3008-\u3020\u3030\u30FB'
    '\uFFF0-\uFFFD\U0001F000-\U0001FAFF]+',
    ' ', 'g'
))
