"""What OpenAI's API has and this one has not, so that code which asks for it is told what to do instead."""

_ABSENT = {
    "/v1/chat/completions": "Answers are not stored, so there is nothing to list, read or change; only POST is here.",
    "/v1/responses": "There is no websocket, and no list of responses, since none is stored; only POST is here.",
    "/v1/evals": "Models are compared by `afina evaluations`, over gRPC.",
    "/v1/embeddings": "Models here write text; there are no embeddings.",
    "/v1/moderations": "There is no moderation here.",
    "/v1/images": "Models here write text; there are no images.",
    "/v1/audio": "Models here write text; there is no audio.",
    "/v1/videos": "Models here write text; there are no videos.",
    "/v1/realtime": "There are no realtime sessions; stream /v1/chat/completions or /v1/responses.",
    "/v1/batches": "There are no batches; send the requests themselves, many at a time.",
    "/v1/vector_stores": "There are no vector stores.",
    "/v1/assistants": "There are no assistants; use /v1/responses.",
    "/v1/threads": "There are no threads; use /v1/responses.",
    "/v1/conversations": "Conversations are not stored; send what came before with each request.",
    "/v1/containers": "There are no containers; functions are called by you.",
    "/v1/skills": "There are no skills; functions are called by you.",
    "/v1/fine_tuning/checkpoints": "A checkpoint belongs to its project, and can't be shared with another one.",
    "/v1/fine_tuning/alpha": "There are no graders; evaluations compare models by suites.",
    "/v1/organization": "Keys are managed with `afina keys`.",
}


def told(path: str) -> str:
    """Return what to do instead of asking for a path, or nothing where that is not known."""
    return next((words for known, words in _ABSENT.items() if path == known or path.startswith(known + "/")), "")
