-- Values of segment dimensions that have series of their own; all others of a dimension are counted in its series `other`. A value
-- is never removed. A value that is not followed had series before there was a limit.
CREATE TABLE segment_values (
    line         text NOT NULL,
    dimension    text NOT NULL,
    value        text NOT NULL,
    followed     boolean NOT NULL DEFAULT true,
    admitted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (line, dimension, value)
);

INSERT INTO segment_values (line, dimension, value, followed)
SELECT line, dimension, value, row_number() OVER (PARTITION BY line, dimension ORDER BY n DESC, value) <= 200
FROM (
    SELECT line, split_part(segment, '=', 1) AS dimension, substr(segment, strpos(segment, '=') + 1) AS value, sum(n) AS n
    FROM fidelity_panes WHERE strpos(segment, '=') > 0
    GROUP BY 1, 2, 3
) series;
