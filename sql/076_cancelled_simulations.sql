ALTER TYPE simulation_status ADD VALUE IF NOT EXISTS 'cancelled';
