ALTER TYPE simulation_status ADD VALUE 'cancelled';
