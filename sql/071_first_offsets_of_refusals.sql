-- A batch that cannot be read is one refused record at its last offset. `first_offset` is the first offset that it stands for, so that
-- it is found by each of them; null for a record that stands for its own offset alone.
ALTER TABLE refused_records ADD COLUMN first_offset bigint CHECK (first_offset <= source_offset);
UPDATE refused_records SET first_offset = (
    SELECT convert_from(decode(header ->> 1, 'base64'), 'UTF8')::bigint FROM json_array_elements(headers) AS header
    WHERE header ->> 0 = 'twin_first_offset' LIMIT 1)
WHERE kind = 'parked' AND exception = 'UnreadableBatch';
CREATE INDEX refused_records_offset ON refused_records (source_offset);
CREATE INDEX refused_records_range ON refused_records (source_offset) WHERE first_offset IS NOT NULL;
