# ruff: noqa: E501
"""The mutations: what a slip of the pen, or of a review, could do to what Afina promises.

Each is one line, found exactly once in its file (a unit test holds it to that, so that the list can't rot in silence), and
names the tests that have to notice. To add one, take a promise and break it in the smallest way that would compile.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One line that is changed. `tests` are what pytest is given."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str

    def applied_to(self, text: str) -> str:
        """Return a file's text with the mutation. Raises: ValueError (its line is not there exactly once)."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has {text.count(self.old)} times {self.old!r}; mend the list.")
        return text.replace(self.old, self.new)


PROOF = ("tests/unit/inference/test_proof.py",)
GATE = ("tests/unit/inference/test_gate.py",)
STATISTICS = ("tests/unit/evaluator/test_statistics.py",)
PROMOTION = ("tests/rpc/test_inference_endpoints.py", "tests/rpc/test_promotions.py")
TIMELESS = ("-k", "not delayed_acknowledgement")  # one that measures milliseconds says nothing on a busy machine
ROUTES = (
    "tests/unit/inference/test_routes.py",
    "tests/unit/gateway/test_routing.py",
    "tests/rpc/test_gateway_chat.py",
    *TIMELESS,
)
DATABASE = ("tests/contract/test_database.py", "-k", "not postgres")
RECONCILE = ("tests/unit/common/test_reconcile.py",)
TRAINER = ("tests/rpc/test_trainer.py", "tests/rpc/test_trainer_edges.py")
STORE = ("tests/contract/test_object_store.py", "-k", "not s3")
RESUME = ("tests/learning/test_flips.py", "tests/learning/test_resumes.py")
RESUMES = ("tests/learning/test_resumes.py", "-k", "killed or kept or damaged or program")
FLIPS = ("tests/learning/test_flips.py",)
LAYOUTS = ("tests/learning/test_layouts.py",)
ROWS = ("tests/learning/test_rows.py",)
ADAPTERS = ("tests/unit/inference/test_adapter_checks.py",)
KEYS = ("tests/unit/gateway/test_keys.py", "tests/rpc/test_gateway_keys.py", "-k", "not program")
PARAMETERS = ("tests/unit/gateway/test_parameters.py",)
READING = ("tests/unit/gateway/test_reading.py", "tests/rpc/test_gateway_chat.py", *TIMELESS)
DIVISION = ("tests/unit/dataset/test_division.py", "tests/unit/dataset/test_near_rows.py")
CATALOGUE = ("tests/rpc/test_inference_catalogue.py",)
PAGES = ("tests/rpc/test_gateway_files_and_jobs.py",)
ACKNOWLEDGEMENTS = ("tests/unit/inference/test_watchers.py", "tests/unit/gateway/test_routing.py")
CANDIDACY = ("tests/unit/inference/test_candidacy.py", "tests/rpc/test_promotions.py")
VERDICTS = ("tests/rpc/test_trainer_verdicts.py",)
HELD_OUT = ("tests/rpc/test_evaluator_held_out.py",)
DEFAULT_SUITE = ("tests/unit/evaluator/test_default_suite.py",)
ATTEMPTS = ("tests/unit/common/test_attempts.py",)
ACCESS = ("tests/unit/common/test_store_access.py",)
GRANTS = ("tests/rpc/test_store_access.py",)
SIGNATURES = ("tests/contract/test_signed_store.py",)
AUTHENTICATION = ("tests/rpc/test_authentication.py",)
GUARD = ("tests/unit/inference/test_guard.py",)
GOLDEN = ("tests/learning/test_golden.py",)
_LOST = "tests/simulation/test_schedules.py::test_nothing_is_lost_stuck_run_twice_or_ends_as_something_else"
SIMULATION = tuple(f"{_LOST}[range({first}, {first + 20})]" for first in (0, 20, 40))

_PROOF = "services/inference/proof.py"
_GATE = "services/inference/gate.py"
_STATISTICS = "services/evaluator/statistics.py"
_EVIDENCE = "services/inference/evidence.py"
_PROMOTIONS = "services/inference/promotions.py"
_CANDIDACY = "services/inference/candidacy.py"
_WATCHERS = "services/inference/watchers.py"
_VERDICTS = "services/trainer/verdicts.py"
_JOB_ATTEMPTS = "services/trainer/attempts.py"
_TRAINER = "services/trainer/use_cases.py"
_EVALUATING = "services/evaluator/attempts.py"
_ACCESS = "services/common/store_access.py"
_AUTHENTICATION = "services/common/transport/authentication.py"
_PRINCIPAL = "services/common/principal.py"
_BELIEVED = "services/common/believed.py"
_GUARD = "services/inference/server/guard.py"
_ROUTING = "services/gateway/routing.py"
_SQL = "services/common/backends/database/sql.py"
_RECONCILE = "services/common/reconcile.py"
_ATTEMPTS = "services/common/attempts.py"
_MANIFEST = "services/common/ports/manifest.py"
_STORE = "services/common/ports/object_store.py"
_LOCAL = "services/common/backends/object_store/local.py"
_CHECKPOINT = "services/trainer/worker/checkpoint.py"
_LOOP = "services/trainer/worker/loop.py"
_BATCHES = "services/trainer/worker/batches.py"
_ADAPTERS = "services/inference/adapter_checks.py"
_KEYS = "services/gateway/keys.py"
_USE_CASES = "services/gateway/use_cases.py"
_PARAMETERS = "services/gateway/openai/parameters.py"
_GENERATION = "services/gateway/generation.py"
_DIVISION = "services/dataset/division.py"

MUTATIONS = (
    # Proof: a server that answers as somebody else is not ready.
    Mutation("proof-limit", _PROOF, "if own >= MAX_MEAN_DIFFERENCE:", "if own >= 10 * MAX_MEAN_DIFFERENCE:", PROOF,
             "another adapter's answers would pass as one's own"),
    Mutation("proof-nearer-to-base", _PROOF, "if gap >= MIN_REFERENCE_GAP and own >= other:", "if False:", PROOF,
             "a server that ignores the adapter would pass"),
    Mutation("proof-template", _PROOF, "if chat.prompt_token_ids != said.token_ids]", "if False]", PROOF,
             "a server that renders chats otherwise would pass"),
    Mutation("proof-not-finite", _PROOF, "if not token_count or not math.isfinite(own):", "if not token_count:", PROOF,
             "NaN compares as false, so a broken server would be proven"),
    Mutation("proof-wrong-base", _PROOF, "    if told != base_digest:", "    if False:", PROOF,
             "references of another base would count"),
    Mutation("proof-indistinguishable", _PROOF, "(math.isnan(self.reference_gap) or self.reference_gap >= MIN_REFERENCE_GAP)", "True", PROOF,
             "an adapter that can't be told from its base could be promoted"),
    # Gate and statistics: what counts as better.
    Mutation("gate-significance", _GATE, "if p_value > gate.significance_level:", "if p_value > 1:", GATE,
             "luck would promote"),
    Mutation("gate-min-effect", _GATE, "if effect <= gate.min_effect:", "if effect < gate.min_effect:", GATE,
             "an effect on the edge, none at all among them, would pass"),
    Mutation("gate-min-items", _GATE, "if n < gate.min_item_count:", "if n < 1:", GATE,
             "a handful of items would decide"),
    Mutation("gate-lower-score", _GATE, "if comparison.score_effect < 0:", "if False:", GATE,
             "often a little better and seldom much worse would count as better"),
    Mutation("gate-sign", _GATE, "(self.candidate_only_count - self.champion_only_count)",
             "(self.champion_only_count - self.candidate_only_count)", GATE, "the worse model would win"),
    Mutation("gate-one-tail", _GATE, "min(1.0, 2 * ways / (1 << discordant))", "min(1.0, ways / (1 << discordant))", GATE,
             "p would be half of what it is"),
    Mutation("gate-power", _GATE, "z_power = NormalDist().inv_cdf(POWER)", "z_power = 0.0", GATE,
             "it would ask for half of the items that are needed"),
    Mutation("statistics-mcnemar-tail", _STATISTICS, "for k in range(min(first_only, second_only)):",
             "for k in range(min(first_only, second_only) - 1):", STATISTICS, "the tail would lack its last term"),
    Mutation("statistics-newcombe-sign", _STATISTICS, "max(0.0, below * below - 2 * phi * below * above + above * above))\n    below",
             "max(0.0, below * below + 2 * phi * below * above + above * above))\n    below", STATISTICS,
             "the interval would be too wide or too narrow"),
    Mutation("statistics-t-freedom", _STATISTICS, "half = _t_quantile(confidence, count - 1) * error",
             "half = _t_quantile(confidence, count) * error", STATISTICS, "the interval would be too narrow"),
    # Promotion: nobody is believed.
    Mutation("promotion-unfinished", _EVIDENCE, 'if evidence.state != "SUCCEEDED":', "if False:", PROMOTION,
             "half an evaluation would count"),
    Mutation("promotion-other-suite", _EVIDENCE, "if current.gate.suite and evidence.suite != current.gate.suite:", "if False:",
             PROMOTION, "an easier suite would open the gate"),
    Mutation("promotion-held-out", _EVIDENCE, "if told := seen_rows(candidate, evidence, suite):", 'if told := "":', PROMOTION,
             "rows that chose the checkpoint would decide"),
    Mutation("promotion-suite-digest", _EVIDENCE, "if suite.digest != evidence.suite_digest:", "if False:", PROMOTION,
             "a suite that was changed since would count"),
    Mutation("promotion-model-digest", _EVIDENCE, "if evidence.digests[name] != await _digest(inference, name):", "if False:",
             PROMOTION, "weights that were never asked would be promoted"),
    Mutation("promotion-weak-champion", _EVIDENCE, "for prompt in suite.prompts if prompt not in asked]",
             "for prompt in suite.prompts if False]", PROMOTION, "a champion asked badly would lose"),
    Mutation("promotion-other-project", _PROMOTIONS,
             'or (is_known and parse(EVALUATION_NAME, evaluation)["project"] != project)', "", PROMOTION, "another project's evaluation would count"),
    Mutation("promotion-etag", _PROMOTIONS, "if etag and etag != str(record.version):", "if False:", PROMOTION,
             "a stale client would overwrite what it never saw"),
    # Routes: who may ask whom.
    Mutation("routes-other-project", _ROUTING, 'return table.get((project, public_id)) or table.get(("", public_id))',
             "return next((r for (_, n), r in table.items() if n == public_id), None)", ROUTES,
             "a project would reach another's models"),
    Mutation("routes-asked-owner", _ROUTING, 'if owner not in ("", project):', "if False:", ROUTES,
             "a model found at inference would be anybody's"),
    Mutation("routes-avoid", _ROUTING, "good = [replica for replica in route.replicas if replica.url not in avoid]",
             "good = list(route.replicas)", ROUTES, "a dead replica would be asked twice"),
    # Leases and reconcile: two replicas, one writer.
    Mutation("lease-token", _SQL, "guard += [r.lease_token == record.lease_token, r.lease_end_us > us(now)]",
             "guard += [r.lease_end_us > us(now)]", DATABASE, "another replica's lease would do"),
    Mutation("lease-end", _SQL, "guard += [r.lease_token == record.lease_token, r.lease_end_us > us(now)]",
             "guard += [r.lease_token == record.lease_token]", DATABASE, "one that froze past its lease would write"),
    Mutation("lease-claimed-twice", _SQL, ".where(r.kind == kind, r.due_time_us <= us(now), free)\n            query",
             ".where(r.kind == kind, r.due_time_us <= us(now))\n            query", DATABASE,
             "a claimed record would block what is due behind it"),
    Mutation("stale-write", _SQL, "r.name == record.name, r.version == record.version]\n            if record.lease_token",
             "r.name == record.name]\n            if record.lease_token", DATABASE, "the last writer would win"),
    Mutation("cursor-newest", _SQL, "r.sequence < after if newest_first else r.sequence > after",
             "r.sequence <= after if newest_first else r.sequence > after", DATABASE, "each page would repeat a row"),
    Mutation("cursor-events", _SQL, "e.sequence < after if newest_first else e.sequence > after", "e.sequence < after if newest_first else e.sequence >= after", DATABASE,
             "a watch that resumes would tell an event twice"),
    Mutation("list-neighbour", _SQL, 'r.name < f"{parent}0")', 'r.name < f"{parent}~")', DATABASE,
             "a project would list those whose name begins as its own"),
    Mutation("reconcile-overtaken", _RECONCILE, "if _monotonic_s() + pause_s - begin_s > self._lease_s:", "if False:", RECONCILE,
             "a step would go on writing after its lease"),
    Mutation("reconcile-put-back", _RECONCILE, "            await self._put_back(record, error)", "            raise", RECONCILE,
             "one step that fails would end the loop, or be lost"),
    # Attempts: one worker may report.
    Mutation("attempt-token", _ATTEMPTS, 'if not any(hmac.compare_digest(one["token_sha256"], given) for one in tries_of(record)):',
             "if not tries_of(record):", ATTEMPTS, "any token would do"),
    Mutation("attempt-repeats", _ATTEMPTS, 'fresh = events[max(0, int(attempt.document["next_number"]) - first_number) :]',
             "fresh = events", TRAINER, "an event sent again would be told twice"),
    # Artifacts: bytes are what their digest says.
    Mutation("manifest-digest", _MANIFEST, "        if manifest.digest != told:", "        if False:", STORE + FLIPS,
             "a manifest whose files were exchanged would be believed"),
    Mutation("manifest-seal", _MANIFEST, "if seal is not None and sealed(raw) != document:", "if False:", FLIPS,
             "a flipped bit in a metric or a base's name would be believed"),
    Mutation("manifest-path", _MANIFEST, 'if pure.is_absolute() or not pure.parts or any(part in ("..", ".") for part in pure.parts)',
             "if pure.is_absolute() or not pure.parts", STORE, "a manifest would write outside of its folder"),
    Mutation("fetch-digest", _MANIFEST, "    if digest.hexdigest() != file.artifact.sha256:", "    if False:", STORE,
             "flipped bits would be served"),
    Mutation("fetch-cache", _MANIFEST, "_mend(store, manifest, cache, target) if target.is_dir()", "None if target.is_dir()", FLIPS,
             "a node's cache would keep its flipped bits"),
    Mutation("artifact-digest", _STORE, "if hashlib.sha256(data).hexdigest() != artifact.sha256:", "if False:", FLIPS,
             "a flipped bit in a checkpoint or in a row would be trained on"),
    Mutation("store-keys", _STORE, 'any(p in ("..", ".") or p.startswith(STAGING) for p in parts)', "False", STORE,
             "a key would leave the store"),
    Mutation("store-commit-winner", _LOCAL, "        except FileExistsError:\n            return False",
             "        except FileExistsError:\n            return True", STORE, "every caller would have won"),
    Mutation("store-changed-bytes", _LOCAL, "and not self._holds(key, digest.hexdigest()):", "and False:", FLIPS,
             "bytes that a disk has changed would be believed by who writes them anew"),
    # Resume: exactly where it was.
    Mutation("resume-random", _CHECKPOINT, '    torch.set_rng_state(checkpoint.random_states["cpu"])', "    pass", RESUMES,
             "dropout would draw other numbers after a kill"),
    Mutation("resume-optimiser", _CHECKPOINT, "        optimizer.state[parameter][key] = value.to(", "        _ = value.to(", RESUMES,
             "AdamW would begin anew after a kill"),
    Mutation("resume-kept", _CHECKPOINT, "KEPT = 2", "KEPT = 1", RESUMES, "there would be none before a damaged one"),
    Mutation("resume-forget-newest", _CHECKPOINT, "    for name in names[KEPT:]:", "    for name in names[:-KEPT]:", RESUMES,
             "the newest checkpoints would be forgotten"),
    Mutation("resume-oldest", _CHECKPOINT, 'if MANIFEST.search(key)), reverse=True)', "if MANIFEST.search(key)))", RESUMES,
             "it would go on from the older one"),
    Mutation("resume-best", _CHECKPOINT, '    best = tensors_from_bytes(files["best.safetensors"]) if "best.safetensors" in files else None',
             "    best = None", RESUMES, "the best weights would be forgotten by a kill"),
    Mutation("resume-discard", _CHECKPOINT, "            _discard(store, name)\n    return None", "    return None", FLIPS,
             "a damaged checkpoint would push the good one out"),
    Mutation("resume-shared-files", _CHECKPOINT, "store.put(name, io.BytesIO(data))", 'store.put(f"{prefix}/00000000-0000", io.BytesIO(data))',
             RESUME, "one flipped bit would take both checkpoints"),
    # Learning: what is learned from, how much it weighs, in which order.
    Mutation("loss-normalised", _LOOP, "loss = losses.sum() / loss_count", "loss = losses.mean()", LAYOUTS,
             "how rows are divided would change what they weigh"),
    Mutation("loss-first-token", _BATCHES, "columns += [begin + at - 1 for at in trained]", "columns += [begin + at for at in trained]",
             LAYOUTS, "each token would be predicted from itself"),
    Mutation("mask-padded", _BATCHES, "for at in range(1, len(row.ids)) if row.has_loss[at]]\n    columns = sorted",
             "for at in range(1, len(row.ids))]\n    columns = sorted", LAYOUTS, "prompts would be learned by heart"),
    Mutation("mask-end-token", _BATCHES, "return next((at + 1 for at in range", "return next((at for at in range", ROWS,
             "the model would not learn to stop"),
    Mutation("mask-weight", _BATCHES, 'return message["role"] == "assistant" and message.get("weight") != 0',
             'return bool(message["role"] == "assistant")', ROWS, "answers of weight 0 would be learned"),
    Mutation("order-epochs", _BATCHES, 'random.Random(f"afina order {seed} {epoch}").shuffle(order)',
             'random.Random(f"afina order {seed}").shuffle(order)', ROWS, "each epoch would have the same order"),
    Mutation("order-last-rows", _BATCHES, "    return -(-row_count // batch_size)", "    return max(1, row_count // batch_size)", ROWS,
             "the last rows of an epoch would never be learned"),
    # Adapters: what must not reach the engine.
    Mutation("adapter-not-finite", _ADAPTERS, "& mask) >= limit).any()", "& mask) > 0xFFFFFFFF).any()", ADAPTERS,
             "a NaN would poison its neighbours' answers"),
    Mutation("adapter-bf16-rounds", _ADAPTERS, '"F32": ("<u4", 0x7FFFFFFF, 0x7F7F8000)', '"F32": ("<u4", 0x7FFFFFFF, 0x7F800000)',
             ADAPTERS, "a number that rounds to infinity would pass"),
    Mutation("adapter-prefix", _ADAPTERS, "        if module not in modules:", "        if False:", ADAPTERS,
             "keys under a wrong prefix would answer as the base"),
    Mutation("adapter-shape", _ADAPTERS, "pair.b != (out_width, rank):", "False:", ADAPTERS, "misshapen halves would answer wrongly"),
    Mutation("adapter-half", _ADAPTERS, "if pair.a is None or pair.b is None:", "if pair.a is None and pair.b is None:", ADAPTERS,
             "half of a pair would be taken"),
    Mutation("adapter-rank", _ADAPTERS, "    elif rank > max_rank:\n        yield Violation(\"r\"", "    elif False:\n        yield Violation(\"r\"",
             ADAPTERS, "the engine would refuse it later, or worse"),
    Mutation("adapter-base", _ADAPTERS, "    if told != base_digest:", "    if False:", ADAPTERS, "an adapter of another base would be served"),
    Mutation("adapter-missing", _ADAPTERS, "and module not in pairs and targets", "and False and targets", ADAPTERS,
             "half of the layers could be missing"),
    Mutation("adapter-pickle", _ADAPTERS, "return PurePosixPath(path).suffix.lower() in UNSAFE_SUFFIXES", "return False", ADAPTERS,
             "a pickle would be stored beside the weights"),
    # Keys: who may ask.
    Mutation("key-unknown", _USE_CASES, "await _known(context, keys.sha256_of(secret)) if keys.is_secret(secret) else None",
             "await _known(context, keys.sha256_of(secret))", KEYS, "anything that a client sends would be looked up"),
    Mutation("key-expiry", _KEYS, "return bool(self.expire_time) and now >=", "return bool(self.expire_time) and now <", KEYS,
             "a key would work when its time is over"),
    Mutation("key-expiry-unchecked", _USE_CASES, "if key.has_expired(context.clock()):", "if False:", KEYS,
             "an expired key would work"),
    Mutation("key-believed", _BELIEVED, "        if revocations != self.revocations:", "        if False:", KEYS,
             "a key that was revoked while it was looked up would be believed"),
    Mutation("key-revoked", _USE_CASES, "    context.believed.forget(secret_sha256)", "    _ = secret_sha256", KEYS,
             "this replica would go on with a revoked key"),
    Mutation("key-plain", _KEYS, "return hashlib.sha256(secret.encode()).hexdigest()", "return secret", KEYS,
             "secrets would stand in the database"),
    # The road to the engine and back.
    Mutation("parameter-prompt-logprobs", _PARAMETERS, '_SAMPLING = frozenset((\n    "model",', '_SAMPLING = frozenset((\n    "model", "prompt_logprobs",',
             PARAMETERS, "one request would kill the engine for everybody"),
    Mutation("parameter-echo-logprobs", _PARAMETERS, 'if asked.passed_on.get("echo") and "logprobs" in asked.passed_on:', "if False:",
             PARAMETERS, "the same, by another name"),
    Mutation("parameter-unknown", _PARAMETERS, '            raise unknown_parameter(name, _HINTS.get(name, ""))', "            continue",
             PARAMETERS, "what is not known would be dropped in silence"),
    Mutation("parameter-count", _PARAMETERS, "    if count > MAX_CHOICES:", "    if False:", PARAMETERS, "one request could take all of the engine"),
    Mutation("answer-other-model", _GENERATION, "if answered != self._answer.replica.served_name:", "if False:", READING,
             "another model's answer would carry this one's name"),
    Mutation("answer-broken-off", _GENERATION, "        if not self._is_done:", "        if False:", READING,
             "half an answer would look like a whole one"),
    Mutation("answer-rest", _GENERATION, "(self._rest + chunk).split", "chunk.split", READING,
             "events that two chunks share would be lost"),
    Mutation("usage-counted", _GENERATION, '        self.usage = data.get("usage") or self.usage', '        self.usage = None', READING,
             "tokens would not be counted"),
    Mutation("slots", _GENERATION, "        if self._taken >= self._limit:", "        if self._taken > self._limit:", READING,
             "one answer more than allowed would be under way"),
    # Data: what is held out stays out.
    Mutation("split-seed", _DIVISION, "key=str(seed).encode())", 'key=b"0")', DIVISION, "the seed would change nothing"),
    Mutation("split-leak", _DIVISION, "group = groups(self._words, ranks)", "group = np.arange(len(ranks))", DIVISION,
             "a row's twin would train while it is held out"),
    Mutation("split-case", _DIVISION, "bytes(range(256)).lower())", "bytes(range(256)))", DIVISION,
             "the same words in capitals would leak"),
    Mutation("split-system-message", _DIVISION, "        if role in INSTRUCTION_ROLES:", "        if False:", DIVISION,
             "the system message would tell twins apart"),
    Mutation("split-shares", _DIVISION, "missing = round(sum(exact)) - sum(shares)", "missing = 0", DIVISION,
             "rounding would lose held-out rows"),
    # Names: what a model is called does not change.
    Mutation("name-taken", "services/inference/public_ids.py", "        if public_id in endpoints:", "        if False:", CATALOGUE,
             "an alias would take an endpoint's name, and its traffic"),
    Mutation("name-holder", "services/inference/public_ids.py", "            if (holder := await holder_of(inference, public_id)) is not None:",
             "            if False:", CATALOGUE, "a name would go to whoever asks last"),
    Mutation("name-pattern", "services/common/names.py", "match = re.fullmatch(expression, name)", "match = re.match(expression, name)",
             ("tests/unit/common/test_names.py",), "a name with more behind it would pass"),
    Mutation("page-after", "services/gateway/openai/paging.py", '            has_begun = item["id"] == after\n            continue',
             '            has_begun = item["id"] == after', PAGES, "each page would begin with what was asked after"),
    Mutation("page-more", "services/gateway/openai/paging.py", "        if len(data) == limit:", "        if len(data) > limit:", PAGES,
             "a page would hold one more than asked"),
    # Promotion: who may, back to where, and when it is done.
    Mutation("promotion-override-digests", _PROMOTIONS, "if not has_override or refusal.reason not in OVERRIDABLE:", "if not has_override:",
             PROMOTION, "an override would pass digests, which say that the model is another"),
    Mutation("promotion-rolled-back-digest", _PROMOTIONS, "    if target.digest != before.digest:", "    if False:", PROMOTION, "a rollback would lead to weights that it never pointed to"),
    Mutation("promotion-rollback-newest", "services/inference/endpoint.py", "return standing[-2] if len(standing) > 1 else None",
             "return standing[0] if len(standing) > 1 else None", PROMOTION, "a rollback would lead to the first model"),
    Mutation("promotion-rollback-forward", "services/inference/endpoint.py", "if promotion.kind == ROLLBACK and promotion.model in models:",
             "if False:", PROMOTION, "rolling back twice would go forward again"),
    Mutation("promotion-rollback-never", _PROMOTIONS, "if p.model == target_name), None)", "if True), None)", PROMOTION,
             "a rollback would take a model that was never promoted for another"),
    Mutation("promotion-candidacy", _PROMOTIONS, "    await stand(inference, promotion.model, record)\n", "", CANDIDACY,
             "an endpoint could point to a model that is just being deleted"),
    Mutation("promotion-quarantined", _CANDIDACY, "        standing.require_active()\n", "", CANDIDACY,
             "a model that was quarantined meanwhile would be promoted"),
    Mutation("promotion-acknowledged", _WATCHERS, "return revision == await read_revision(self._database)", "return True", ACKNOWLEDGEMENTS, "a gateway would have leave to answer by an old table"),
    Mutation("promotion-behind", _WATCHERS, "if watcher.revision < revision and passed_s", "if watcher.revision < revision - 1 and passed_s",
             ACKNOWLEDGEMENTS, "promote would return while a gateway answers with the model before"),
    Mutation("promotion-lease", "services/gateway/belief.py", "        return now < self._end", "        return True", ACKNOWLEDGEMENTS, "a gateway that was frozen would answer by what it knew"),
    Mutation("promotion-watcher-longest", _WATCHERS, 'asdict(watcher) | {"believed_s": max(watcher.believed_s, before.believed_s)}',
             "asdict(watcher)", ACKNOWLEDGEMENTS, "a leave that was given for longer would be forgotten"),
    Mutation("evidence-other-rows", _EVIDENCE, 'if finding == "DISJOINT" or (finding != "OVERLAPS" and is_same):', 'if finding == "DISJOINT" or is_same:',
             ("tests/unit/inference/test_evidence.py",), "rows that were seen in another dataset would count"),
    # Verdicts: said once, about rows that were held out.
    Mutation("verdict-request-id", _VERDICTS, 'f"verdict-{job.id}")', '"")', VERDICTS, "a program that dies would have a second evaluation made"),
    Mutation("verdict-own-suite", _VERDICTS, 'suite = asked.get("suite") or await', 'suite = await', VERDICTS,
             "the suite that was asked for would not be asked"),
    Mutation("verdict-held-out-empty", "services/evaluator/held_out.py", "    if not origins:", "    if False:", HELD_OUT,
             "a model without an origin would count as one that has not seen the rows"),
    Mutation("verdict-held-out-overlap", "services/evaluator/held_out.py", "finding = OVERLAPS if count else", "finding = OVERLAPS if False else", HELD_OUT,
             "rows that a model has seen would be called held out"),
    Mutation("verdict-suite-labels", "services/evaluator/default_suite.py", "    if 2 <= len(labels) <= MAX_LABELS and", "    if 2 < len(labels) <= MAX_LABELS and",
             DEFAULT_SUITE, "yes and no would be compared as texts"),
    # Attempts, as a simulator plays them: programs that freeze, die and come back in every order.
    Mutation("attempt-launched-before-its-token", _ATTEMPTS,
             '    await ports.database.update(record, {"next_number": 0, "tries": kept, **granted(attempt.grant)})\n', "", SIMULATION,
             "a worker could not report, whatever it did"),
    Mutation("attempt-tries-forgotten", _ATTEMPTS, "kept = [*tries[1 - MAX_TRIES :], mine]", "kept = [mine]", ATTEMPTS,
             "the worker of the try that the launcher heard first would be refused"),
    Mutation("attempt-reports-lost", _ATTEMPTS, '"next_number": first_number + len(events)}', '"next_number": first_number + len(events) + 1}',
             SIMULATION, "an event would be taken for one that is known"),
    Mutation("attempt-stop-waits", _ATTEMPTS, "return all([(await ports.launcher.observe(key)).has_ended for key in keys])", "return True",
             SIMULATION, "what is CANCELLED would still run"),
    Mutation("attempt-over-reports", _TRAINER, "if job.has_ended or attempt < job.attempt:", "if job.has_ended:", GRANTS,
             "an attempt that was given up would report, and read the store"),
    Mutation("attempt-crash-limit", _JOB_ATTEMPTS, "if ended.crash_count >= MAX_CRASHES:", "if ended.crash_count > MAX_CRASHES:", SIMULATION, "a job would crash once more than told"),
    Mutation("attempt-stopped-is-crash", _JOB_ATTEMPTS, "has_crashed = seen.exit_code not in attempts.EXITS_STOPPED", "has_crashed = True", ("tests/rpc/test_trainer_edges.py", "tests/rpc/test_trainer_pauses.py"),
             "nodes that are drained would end a job"),
    Mutation("attempt-result-first", _JOB_ATTEMPTS, "    except errors.ArtifactNotFound:\n        return False\n    return True",
             "    except errors.ArtifactNotFound:\n        return False\n    return False", SIMULATION, "what was trained would be trained again"),
    Mutation("attempt-still-over", _JOB_ATTEMPTS, "attempt=attempt.number, is_attempt_over=False)", "attempt=attempt.number)", SIMULATION,
             "two attempts would train at once"),
    Mutation("attempt-evaluation-key", _EVALUATING, "    are_revoked = await _revoke_all(evaluator, ended)\n", "    are_revoked = True\n", SIMULATION,
             "an evaluation's key would outlive it"),
    Mutation("attempt-evaluation-answers", _EVALUATING, "    await asyncio.to_thread(_forget_answers, evaluator, ended)\n", "", SIMULATION,
             "what models said would stay in the store"),
    Mutation("attempt-request-ids", _TRAINER, 'f"{parent}:{request_id}" if request_id else "")  # two', "request_id)  # two", SIMULATION,
             "a project would be answered with another's job"),
    # Store access: a worker touches what it was granted.
    Mutation("access-plain-key", _ACCESS, "        if not PLAIN.fullmatch(key):", "        if False:", ACCESS, "a key with .. would leave its prefix"),
    Mutation("access-delete", _ACCESS, "prefixes = self.deletes if request.verb is StoreVerb.DELETE else self.writes", "prefixes = self.writes",
             ACCESS, "a worker could delete a result"),
    Mutation("access-read-only", _ACCESS, "if request.verb in READING and key in self.reads:", "if key in self.reads:", ACCESS,
             "a worker could overwrite its base"),
    Mutation("access-held-out-rows", _JOB_ATTEMPTS, 'for part in ("train", "validation"))', 'for part in ("train", "validation", "test"))', GRANTS,
             "a worker could learn the rows that judge it"),
    Mutation("access-lifetime", "services/common/backends/object_store/s3_client.py", "ExpiresIn=lifetime_s", "ExpiresIn=604800", SIGNATURES,
             "a stolen URL would open for a week"),
    Mutation("access-write-once", "services/common/backends/object_store/s3_client.py", 'given["IfNoneMatch"] = "*"', "pass", SIGNATURES,
             "an attempt could write over what another has committed"),
    # Who calls, and for which project.
    Mutation("auth-scope", _AUTHENTICATION, "        caller.require(scope)\n", "", AUTHENTICATION, "a key could do everything"), Mutation("auth-unknown-method", _AUTHENTICATION, "scopes.OF_METHOD.get(method, scopes.OPERATOR)", 'scopes.OF_METHOD.get(method, "inference")', AUTHENTICATION,
             "a method that nobody thought of would be open"),
    Mutation("auth-acting-for", _PRINCIPAL, "return Principal(name, project_of(name), self.scopes)", "return Principal(name, EVERY_PROJECT, self.scopes)", AUTHENTICATION,
             "what is done for a key would not be held to its project"),
    Mutation("auth-project-walk", _AUTHENTICATION, "                _look(project, part)", "                pass", AUTHENTICATION,
             "another project's names would pass inside of a message"),
    Mutation("auth-project-maps", _AUTHENTICATION, "values = [*value, *value.values()] if is_map else value", "values = [*value] if is_map else value", AUTHENTICATION,
             "another project's names would pass as values of a map"),
    Mutation("auth-project-public-id", _AUTHENTICATION, "_RESOURCE.match(text) or _PUBLIC_ID.match(text)", "_RESOURCE.match(text)", AUTHENTICATION,
             "another project's models would be reached by public id"),
    Mutation("auth-included-scopes", "services/common/scopes.py", "    given |= {included for scope in given for included in _INCLUDES[scope]}\n", "", KEYS, "who may write could not read"),
    # The model server's door, and what proves its answers.
    Mutation("guard-open", _GUARD, 'OPEN = frozenset({("GET", "/health"), ("GET", "/metrics")})', 'OPEN = frozenset({("GET", "/health"), ("GET", "/metrics"), ("GET", "/version")})',
             GUARD, "a path that is not listed would be open"),
    Mutation("guard-no-key", _GUARD, "return bool(self._wanted) and len(given) == 1 and", "return not self._wanted or len(given) == 1 and", GUARD,
             "a server without a key would let everybody in"),
    Mutation("guard-two-keys", _GUARD, "len(given) == 1 and", "given and", GUARD, "what a proxy in between reads as another would pass"),
    Mutation("cache-salt", _GENERATION, 'question = {**question, "cache_salt": project}', "pass", READING,
             "how fast an answer comes would tell what another project has asked"),
    Mutation("golden-turns", "services/trainer/worker/golden.py", "if len(chosen) >= GOLDEN_CHATS and has_turns:", "if len(chosen) >= GOLDEN_CHATS:", GOLDEN,
             "no golden chat would have several turns"),
    Mutation("golden-different", "services/trainer/worker/golden.py", "cut is not None and cut not in chosen and is_needed", "cut is not None and is_needed", GOLDEN,
             "one chat would be asked eight times"),
    Mutation("golden-fits", "services/trainer/worker/golden.py", "return len(batches.render(messages, tokenizer)) <= max_tokens", "return True", GOLDEN,
             "a golden chat would be longer than its server takes"),
)  # fmt: skip
