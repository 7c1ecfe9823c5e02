-- With what the outcomes of a model were predicted from features: of how many outcomes each feature was missing, had a level that the
-- model never saw, or was sent although the model does not use it. One row for each source, which only its own batches change.
CREATE TABLE feature_counts (
    model_id  uuid NOT NULL,
    feature   text NOT NULL,
    source    text NOT NULL,
    line      text NOT NULL,
    outcomes  bigint NOT NULL,
    missing   bigint NOT NULL,
    unseen    bigint NOT NULL,
    unused    bigint NOT NULL,
    PRIMARY KEY (model_id, feature, source)
);
