-- How outcomes vary between the real rows that satisfy a population's filters; null where it was never measured.
ALTER TABLE twin_populations ADD COLUMN spread jsonb;
