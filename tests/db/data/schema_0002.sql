BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
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
CREATE TABLE trials (
	id VARCHAR(32) NOT NULL, 
	workload_hash VARCHAR(64) NOT NULL, 
	target VARCHAR(255) NOT NULL, 
	hardware VARCHAR(64) NOT NULL, 
	tvm_version VARCHAR(64) NOT NULL, 
	schedule_version VARCHAR(64) NOT NULL, 
	job_id VARCHAR(32), 
	state VARCHAR(16) NOT NULL, 
	trace JSON NOT NULL, 
	samples_s JSON NOT NULL, 
	median_s FLOAT, 
	error TEXT, 
	created_at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(workload_hash) REFERENCES workloads (hash), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE TABLE workloads (
	hash VARCHAR(64) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	ir TEXT NOT NULL, 
	created_at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (hash)
);
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
CREATE INDEX ix_trials_key ON trials (workload_hash, target, hardware, tvm_version, schedule_version);
COMMIT;
