-- What the track record of a run rests on: of each experiment with its intervention that was known at the first write, the numbers of
-- an earlier simulation and of the experiment. Null for runs from before this column, whose track record is that of the time of asking.
ALTER TABLE simulation_runs ADD COLUMN compared_simulations jsonb;
