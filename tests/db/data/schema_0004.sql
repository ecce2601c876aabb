BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE artifacts (
	sha256 VARCHAR(64) NOT NULL, 
	model_id VARCHAR(64) NOT NULL, 
	variant VARCHAR(255) NOT NULL, 
	precision VARCHAR(32) NOT NULL, 
	target VARCHAR(255) NOT NULL, 
	arch VARCHAR(32) NOT NULL, 
	isa VARCHAR(64) NOT NULL, 
	tvm_version VARCHAR(64), 
	size_bytes BIGINT NOT NULL, 
	macs BIGINT, 
	manifest JSON NOT NULL, 
	created_at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (sha256), 
	FOREIGN KEY(model_id) REFERENCES models (id)
);
INSERT INTO "artifacts" VALUES('2222222222222222222222222222222222222222222222222222222222222222','1111111111111111111111111111111111111111111111111111111111111111','float32','float32','x86:avx2','x86_64','avx2','0.27.0',1000,NULL,'{"name": "resnet"}','2026-11-22T00:00:00.000000+00:00');
CREATE TABLE claims (
	key_id VARCHAR(32) NOT NULL, 
	candidate VARCHAR(1024) NOT NULL, 
	job_id VARCHAR(32) NOT NULL, 
	host VARCHAR(128) NOT NULL, 
	pid INTEGER NOT NULL, 
	expires FLOAT NOT NULL, 
	PRIMARY KEY (key_id, candidate), 
	FOREIGN KEY(key_id) REFERENCES tuning_keys (id)
);
CREATE TABLE cost_models (
	target VARCHAR(255) NOT NULL, 
	tvm_version VARCHAR(64) NOT NULL, 
	schedule_version VARCHAR(64) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	data BLOB NOT NULL, 
	trials INTEGER NOT NULL, 
	created_at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (target, tvm_version, schedule_version, kind)
);
INSERT INTO "cost_models" VALUES('x86:avx2','0.27.0','1','xgboost',X'7B7D',4,'2026-11-22T20:36:40.080952+00:00');
CREATE TABLE evaluations (
	id VARCHAR(32) NOT NULL, 
	run_id VARCHAR(32) NOT NULL, 
	artifact_sha256 VARCHAR(64) NOT NULL, 
	baseline_sha256 VARCHAR(64), 
	data_sha256 VARCHAR(64) NOT NULL, 
	n INTEGER NOT NULL, 
	metric VARCHAR(64), 
	value FLOAT, 
	agreement FLOAT, 
	sqnr_db FLOAT, 
	created_at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(artifact_sha256) REFERENCES artifacts (sha256), 
	FOREIGN KEY(baseline_sha256) REFERENCES artifacts (sha256)
);
INSERT INTO "evaluations" VALUES('66666666666666666666666666666666','55555555555555555555555555555555','2222222222222222222222222222222222222222222222222222222222222222',NULL,'7777777777777777777777777777777777777777777777777777777777777777',4,'top1',0.75,NULL,NULL,'2026-11-22T00:00:00.000000+00:00');
CREATE TABLE jobs (
	id VARCHAR(32) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	options JSON NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	progress JSON NOT NULL, 
	error TEXT, 
	host VARCHAR(128) NOT NULL, 
	pid INTEGER NOT NULL, 
	started_at VARCHAR(32) NOT NULL, 
	finished_at VARCHAR(32), 
	PRIMARY KEY (id)
);
CREATE TABLE measurements (
	id VARCHAR(32) NOT NULL, 
	run_id VARCHAR(32) NOT NULL, 
	artifact_sha256 VARCHAR(64) NOT NULL, 
	hardware VARCHAR(64) NOT NULL, 
	machine JSON NOT NULL, 
	threads INTEGER NOT NULL, 
	median_s FLOAT NOT NULL, 
	samples_s JSON NOT NULL, 
	created_at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(artifact_sha256) REFERENCES artifacts (sha256)
);
INSERT INTO "measurements" VALUES('44444444444444444444444444444444','55555555555555555555555555555555','2222222222222222222222222222222222222222222222222222222222222222','cpu0','{}',1,0.0015,'[0.001, 0.002]','2026-11-22T00:00:00.000000+00:00');
CREATE TABLE models (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	source_sha256 VARCHAR(64) NOT NULL, 
	inputs JSON NOT NULL, 
	outputs JSON NOT NULL, 
	created_at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "models" VALUES('1111111111111111111111111111111111111111111111111111111111111111','resnet','3333333333333333333333333333333333333333333333333333333333333333','[{"name": "x", "shape": [1, 3], "dtype": "float32"}]','[{"name": "y", "shape": [1, 2], "dtype": "float32"}]','2026-11-22T00:00:00.000000+00:00');
CREATE TABLE seeds (
	job_id VARCHAR(32) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	value BIGINT NOT NULL, 
	PRIMARY KEY (job_id, name), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE TABLE tasks (
	model_id VARCHAR(64) NOT NULL, 
	variant VARCHAR(255) NOT NULL, 
	target VARCHAR(255) NOT NULL, 
	workload_hash VARCHAR(64) NOT NULL, 
	calls INTEGER NOT NULL, 
	PRIMARY KEY (model_id, variant, target, workload_hash), 
	FOREIGN KEY(model_id) REFERENCES models (id), 
	FOREIGN KEY(workload_hash) REFERENCES workloads (hash)
);
CREATE TABLE trials (
	id VARCHAR(32) NOT NULL, 
	key_id VARCHAR(32) NOT NULL, 
	candidate VARCHAR(1024) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	median_s FLOAT, 
	reference_s FLOAT, 
	decisions JSON, 
	variant_hash VARCHAR(64), 
	job_id VARCHAR(32), 
	error TEXT, 
	created_at VARCHAR(32) NOT NULL, 
	samples_s JSON NOT NULL, 
	trace JSON, 
	PRIMARY KEY (id), 
	CONSTRAINT uq_trials_candidate UNIQUE (key_id, candidate), 
	FOREIGN KEY(key_id) REFERENCES tuning_keys (id), 
	FOREIGN KEY(variant_hash) REFERENCES workloads (hash), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "trials" VALUES('99999999999999999999999999999991','32322fe77649111d33ed2896f2e8dbe2','0002:99999999999999999999999999999991','ok',0.0025,NULL,NULL,NULL,NULL,NULL,'2026-11-22T00:00:00.000000+00:00','[0.002, 0.003]','[["tile", 4]]');
INSERT INTO "trials" VALUES('99999999999999999999999999999992','32322fe77649111d33ed2896f2e8dbe2','0002:99999999999999999999999999999992','ok',0.001,NULL,NULL,NULL,NULL,NULL,'2026-11-22T00:00:01.000000+00:00','[0.001]','[["tile", 4]]');
INSERT INTO "trials" VALUES('99999999999999999999999999999993','2d85cd66fd9ed5298c2ad3bef5c2b2e3','0002:99999999999999999999999999999993','failed',NULL,NULL,NULL,NULL,NULL,'no registers','2026-11-22T00:00:02.000000+00:00','[]','[["tile", 8]]');
INSERT INTO "trials" VALUES('99999999999999999999999999999994','32322fe77649111d33ed2896f2e8dbe2','{"tile":4}','ok',0.0005,0.001,'{"tile": 4}',NULL,NULL,NULL,'2026-11-22T00:00:03.000000+00:00','[0.0005]',NULL);
CREATE TABLE tuning_keys (
	id VARCHAR(32) NOT NULL, 
	workload_hash VARCHAR(64) NOT NULL, 
	target VARCHAR(255) NOT NULL, 
	hardware VARCHAR(64) NOT NULL, 
	tvm_version VARCHAR(64) NOT NULL, 
	schedule_version VARCHAR(64) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(workload_hash) REFERENCES workloads (hash)
);
INSERT INTO "tuning_keys" VALUES('32322fe77649111d33ed2896f2e8dbe2','8888888888888888888888888888888888888888888888888888888888888888','x86:avx2','cpu0','0.27.0','1');
INSERT INTO "tuning_keys" VALUES('2d85cd66fd9ed5298c2ad3bef5c2b2e3','8888888888888888888888888888888888888888888888888888888888888888','x86:avx2','cpu1','0.27.0','1');
CREATE TABLE winners (
	id VARCHAR(32) NOT NULL, 
	key_id VARCHAR(32) NOT NULL, 
	trial_id VARCHAR(32), 
	candidate VARCHAR(1024) NOT NULL, 
	decisions JSON, 
	ratio FLOAT NOT NULL, 
	ci95_low FLOAT NOT NULL, 
	ci95_high FLOAT NOT NULL, 
	job_id VARCHAR(32), 
	created_at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(key_id) REFERENCES tuning_keys (id), 
	FOREIGN KEY(trial_id) REFERENCES trials (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "winners" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','32322fe77649111d33ed2896f2e8dbe2','99999999999999999999999999999994','{"tile":4}','{"tile": 4}',2.0,1.9,2.1,NULL,'2026-11-22T00:00:04.000000+00:00');
CREATE TABLE workloads (
	hash VARCHAR(64) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	ir BLOB NOT NULL, 
	created_at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (hash)
);
INSERT INTO "workloads" VALUES('8888888888888888888888888888888888888888888888888888888888888888','conv',X'789CF30C52C84F5348CECF2BB35238BC0400220C0528','2026-11-22T00:00:00.000000+00:00');
CREATE INDEX ix_models_source_sha256 ON models (source_sha256);
CREATE INDEX ix_models_name ON models (name);
CREATE INDEX ix_artifacts_model_id ON artifacts (model_id);
CREATE INDEX ix_artifacts_target ON artifacts (target);
CREATE INDEX ix_measurements_run_id ON measurements (run_id);
CREATE INDEX ix_measurements_hardware ON measurements (hardware);
CREATE INDEX ix_measurements_artifact_sha256 ON measurements (artifact_sha256);
CREATE INDEX ix_evaluations_artifact_sha256 ON evaluations (artifact_sha256);
CREATE INDEX ix_evaluations_run_id ON evaluations (run_id);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_jobs_kind ON jobs (kind);
CREATE INDEX ix_tuning_keys_workload_hash ON tuning_keys (workload_hash);
CREATE INDEX ix_trials_best ON trials (key_id, state, median_s);
CREATE INDEX ix_claims_expires ON claims (expires);
CREATE INDEX ix_claims_job_id ON claims (job_id);
CREATE INDEX ix_winners_key ON winners (key_id, created_at);
CREATE INDEX ix_tasks_workload_hash ON tasks (workload_hash);
CREATE INDEX ix_trials_variant_hash ON trials (variant_hash);
CREATE INDEX ix_winners_trial_id ON winners (trial_id);
COMMIT;
