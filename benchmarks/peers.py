"""What a user would reach for instead, as each package documents it; those that give Hd alone give no slope."""

import torch

from alpha_func import tree
from benchmarks.problems import Point, Problem
from benchmarks.ways import Run, way


@way("curvlinops", module="curvlinops")
def curvlinops(problem: Problem) -> Run:
    """HessianLinearOperator @ d, of one batch, its determinism check off."""
    from curvlinops import HessianLinearOperator

    parameters = list(problem.named.values())

    def run(point: Point):
        module, n = problem.at(point), len(point.batch[0])
        hessian = HessianLinearOperator(
            module, problem.criterion, parameters, [point.batch], check_deterministic=False, num_data=n
        )
        d = list(point.direction.values())
        return None, tree.vdot(d, hessian @ d)

    return run


@way("BackPACK", module="backpack")
def backpack(problem: Problem) -> Run:
    """backpack.hessianfree.hvp.hessian_vector_product, given the gradient."""
    from backpack.hessianfree.hvp import hessian_vector_product

    parameters = list(problem.named.values())

    def run(point: Point):
        value = problem.value(point)
        grads = torch.autograd.grad(value, parameters, create_graph=True)
        d = list(point.direction.values())
        hd = hessian_vector_product(value, parameters, d, grad_params=grads)
        return tree.vdot(d, [g.detach() for g in grads]), tree.vdot(d, list(hd))

    return run


@way("PyHessian", module="pyhessian")
def pyhessian(problem: Problem) -> Run:
    """pyhessian.hessian of one batch, and its hessian_vector_product; it answers for the eval mode of the module."""
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    def run(point: Point):
        module = problem.at(point)
        found = hessian(module, problem.criterion, data=point.batch, cuda=point.batch[0].is_cuda)
        d = list(point.direction.values())
        hd = hessian_vector_product(found.gradsH, found.params, d)
        slope = tree.vdot(d, [g.detach() for g in found.gradsH])
        module.zero_grad()  # it accumulates into .grad, with the graph
        return slope, tree.vdot(d, list(hd))

    return run


@way("hessian-eigenthings", module="hessian_eigenthings")
def eigenthings(problem: Problem) -> Run:
    """HessianOperator @ d, of one batch."""
    from hessian_eigenthings import HessianOperator, supervised_loss

    loss = supervised_loss(problem.criterion)

    def run(point: Point):
        operator = HessianOperator(problem.at(point), [point.batch], loss)
        d = torch.cat([part.flatten() for part in point.direction.values()])
        return None, torch.dot(d, operator @ d)

    return run
