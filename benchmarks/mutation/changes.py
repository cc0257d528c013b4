"""The small changes of a module that its tests should notice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_OPERATE: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Mod: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_LOGGERS = {"_log", "log", "logging"}
_SAYS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
_NO_BEHAVIOUR = {"frozen", "slots", "kw_only", "strict", "stacklevel", "exc_info"}
"""Keywords that guard against programming mistakes, or add to what a log says."""


@dataclass(frozen=True)
class Mutant:
    """A change: the text between two places (bytes) of the source becomes another. ``text`` is its first line."""

    module: str
    line: int
    last: int
    start: int
    end: int
    text: str
    was: str
    now: str


def mutants(module: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of the source."""
    encoded = source.encode()
    lines = encoded.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found = []
    for node, changed in _changes(ast.parse(source)):
        last = node.end_lineno or node.lineno
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[last - 1] + (node.end_col_offset or 0)
        text, was = lines[node.lineno - 1].decode().strip(), encoded[start:end].decode()
        found.append(Mutant(module, node.lineno, last, start, end, text, was, changed))
    return sorted(found, key=lambda one: (one.start, one.end, one.now))


def applied(mutant: Mutant, source: str) -> bytes:
    """The module's text with the change."""
    encoded = source.encode()
    return encoded[: mutant.start] + mutant.now.encode() + encoded[mutant.end :]


def _without_behaviour(tree: ast.Module) -> set[int]:
    """Parts that tests are not to hold: what is logged, what only types need, guards of a dataclass."""
    roots: list[ast.AST] = []
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr():
                roots.append(node)  # an f-string's parts have no places of their own
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=verb))):
                if name in _LOGGERS and verb in _SAYS:
                    roots.append(node)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") as test):
                roots.append(test)
            case ast.keyword(arg=str(name)) if name in _NO_BEHAVIOUR:
                roots.append(node)
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=ast.expr() as annotation):
                roots.append(annotation)
            case ast.FunctionDef(returns=ast.expr() as returns) | ast.AsyncFunctionDef(returns=ast.expr() as returns):
                roots.append(returns)
    return {id(part) for root in roots for part in ast.walk(root)}


def _changes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    skipped = _without_behaviour(tree)
    silent = {id(node.test) for node in ast.walk(tree) if isinstance(node, ast.If) and id(node.test) in skipped}
    for node in ast.walk(tree):
        if id(node) in skipped or not isinstance(node, ast.expr | ast.stmt):
            continue
        match node:
            case ast.Compare():
                for changed in _compared(node):
                    yield node, f"({ast.unparse(changed)})"
            case ast.BoolOp():
                other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
                yield node, f"({ast.unparse(ast.BoolOp(other, node.values))})"
            case ast.BinOp(op=operator) if type(operator) in _OPERATE:
                yield node, f"({ast.unparse(ast.BinOp(node.left, _OPERATE[type(operator)](), node.right))})"
            case ast.UnaryOp(op=ast.Not()):
                yield node, f"({ast.unparse(node.operand)})"
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                plain = isinstance(test, ast.Constant | ast.UnaryOp | ast.Compare)
                if not plain and id(test) not in silent:  # those two are turned round above already
                    yield test, f"(not ({ast.unparse(test)}))"
            case ast.Constant(value=bool(value)):
                yield node, str(not value)
            case ast.Constant(value=int(value) | float(value)):
                yield node, f"({value + 1})"
            case ast.Expr(value=ast.Call() | ast.Await(value=ast.Call())):
                yield node, "pass"


def _compared(node: ast.Compare) -> Iterator[ast.Compare]:
    for place, operator in enumerate(node.ops):
        for kind in _COMPARE.get(type(operator), ()):
            yield ast.Compare(node.left, [*node.ops[:place], kind(), *node.ops[place + 1 :]], node.comparators)
