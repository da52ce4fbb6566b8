-- +goose Up
ALTER TABLE provider_fault
    DROP CONSTRAINT provider_fault_mode_check,
    ADD CONSTRAINT provider_fault_mode_check CHECK (mode IN ('none', 'outage', 'slow', 'flaky', 'reject', 'hang', 'throttle'));

-- +goose Down
UPDATE provider_fault SET mode = 'none' WHERE mode = 'throttle';
ALTER TABLE provider_fault
    DROP CONSTRAINT provider_fault_mode_check,
    ADD CONSTRAINT provider_fault_mode_check CHECK (mode IN ('none', 'outage', 'slow', 'flaky', 'reject', 'hang'));
