-- A population has the realism of its own filters. Where that cannot be measured, unassessed has the reason.
ALTER TABLE twin_populations ADD COLUMN unassessed text;

-- Populations with filters had the figures of their model's twins without filters.
UPDATE twin_populations p SET realism = NULL
FROM digital_twin_models m
WHERE m.model_id = p.model_id AND p.filters_applied <> '{}' AND p.realism = m.metrics -> 'realism';

-- Those that are to be measured, those of a model with equal filters, and the newest of a model. Filters can be longer than an
-- entry of an index may be: their digest is indexed.
CREATE INDEX twin_populations_to_assess ON twin_populations (created_at) WHERE realism IS NULL AND unassessed IS NULL;
CREATE INDEX twin_populations_filters ON twin_populations (model_id, md5(filters_applied::text));
CREATE INDEX twin_populations_newest ON twin_populations (model_id, created_at);
DROP INDEX twin_populations_model;
