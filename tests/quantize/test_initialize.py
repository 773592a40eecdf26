import pytest
import torch
from torch import Tensor

from codec.quantize import KMeans
from codec.quantize.distance import DISTANCES, Distance, nearest
from codec.quantize.initialize import INITIALIZERS, Initializer, JoinedRows, count_and_sum, samples, uniform

EUCLIDEAN = DISTANCES["euclidean"]

each_initializer = pytest.mark.parametrize("initializer", INITIALIZERS.values(), ids=INITIALIZERS)
each_distance = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
of_the_data = pytest.mark.parametrize("initializer", [samples, KMeans()], ids=["samples", "kmeans"])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def start(initializer: Initializer, rows: Tensor, codebook_size: int, distance: Distance = EUCLIDEAN) -> Tensor:
    return initializer(JoinedRows.join(rows), codebook_size, distance, seeded())


def residual(rows: Tensor, vectors: Tensor) -> Tensor:
    return rows - vectors[nearest(rows, vectors, EUCLIDEAN)]


def is_one_of(vectors: Tensor, rows: Tensor) -> Tensor:
    """Whether each vector is one of the rows, to the last bit."""
    return (vectors[:, None] == rows[None]).all(2).any(1)


def slow_kmeans(rows: Tensor, vectors: Tensor, distance: Distance, iterations: int) -> Tensor:
    """Lloyd's algorithm in loops."""
    for _ in range(iterations):
        clusters: list[list[Tensor]] = [[] for _ in vectors]
        for row in rows:
            distances = [distance.measure(row[None], vector[None]).item() for vector in vectors]
            clusters[distances.index(min(distances))].append(row)
        vectors = torch.stack([torch.stack(cluster).mean(0) for cluster in clusters])
    return vectors


def test_codes_are_counted_and_their_rows_added_up() -> None:
    rows, codes = torch.randn(20, 3), torch.randint(4, (20,))
    counts, sums = count_and_sum(rows, codes, 5)
    assert counts.tolist() == [(codes == code).sum() for code in range(5)]
    torch.testing.assert_close(sums, torch.stack([rows[codes == code].sum(0) for code in range(5)]))


def test_rows_are_drawn_without_repetition_while_there_are_enough() -> None:
    rows = torch.randn(7, 3)
    drawn = JoinedRows.join(rows).draw(7, seeded())
    assert sorted(drawn.tolist()) == sorted(rows.tolist())
    more = JoinedRows.join(rows).draw(17, seeded())
    times = [(more == row).all(1).sum().item() for row in rows]
    assert sum(times) == 17
    assert set(times) == {2, 3}


@each_initializer
@each_distance
@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 100])
def test_any_number_of_rows_makes_a_whole_codebook(initializer: Initializer, distance: Distance, count: int) -> None:
    rows = torch.randn(count, 3)
    vectors = start(initializer, rows, 8, distance)
    assert vectors.shape == (8, 3)
    assert vectors.isfinite().all()
    assert torch.equal(vectors, start(initializer, rows, 8, distance))


def test_uniform_does_not_look_at_the_data() -> None:
    vectors = start(uniform, torch.randn(10, 40), 50)
    assert torch.equal(vectors, start(uniform, 100 * torch.randn(99, 40), 50))
    scaled = 50 * vectors
    assert -1 <= scaled.min() < -0.99
    assert 0.99 < scaled.max() <= 1
    assert scaled.mean().abs() < 0.05
    assert scaled.square().mean() == pytest.approx(1 / 3, abs=0.02)


def test_samples_are_different_rows() -> None:
    rows = torch.randn(32, 3)
    vectors = start(samples, rows, 16)
    assert is_one_of(vectors, rows).all()
    assert len(vectors.unique(dim=0)) == 16


def test_samples_are_never_zero_rows() -> None:
    # In a stack, the rows that the stage before made its code vectors.
    rows = torch.randn(64, 3)
    rows[torch.randperm(64)[:32]] = 0
    assert is_one_of(start(samples, rows, 16), rows[rows.any(1)]).all()


@of_the_data
def test_rows_that_are_all_zero_make_a_codebook_of_zeros(initializer: Initializer) -> None:
    assert torch.equal(start(initializer, torch.zeros(10, 3), 8), torch.zeros(8, 3))


@each_distance
@pytest.mark.parametrize("iterations", [0, 1, 2, 10])
def test_kmeans_is_lloyds_algorithm(distance: Distance, iterations: int) -> None:
    rows = torch.randn(60, 2)
    drawn = JoinedRows.join(rows).draw(5, seeded())
    expected = slow_kmeans(rows, drawn, distance, iterations)
    torch.testing.assert_close(start(KMeans(iterations), rows, 5, distance), expected)


def test_one_iteration_of_kmeans_by_hand() -> None:
    rows = torch.tensor([6.0, 0.0, 9.0, 3.6, 1.0, 8.0, 2.0, 5.0])[:, None]
    assert start(KMeans(iterations=0), rows, 2).tolist() == [[1.0], [6.0]]
    # 0, 1 and 2 are nearer to the first; 3.6 joins them only in the second iteration.
    torch.testing.assert_close(start(KMeans(iterations=1), rows, 2), torch.tensor([[1.0], [31.6 / 5]]))
    torch.testing.assert_close(start(KMeans(iterations=2), rows, 2), torch.tensor([[6.6 / 4], [28 / 4]]))


def test_kmeans_without_iterations_is_rows_of_the_batch() -> None:
    rows = torch.randn(60, 2)
    vectors = start(KMeans(iterations=0), rows, 5)
    assert is_one_of(vectors, rows).all()
    assert len(vectors.unique(dim=0)) == 5


@pytest.mark.parametrize("iterations", [-1, -10])
def test_a_negative_number_of_iterations_is_refused(iterations: int) -> None:
    with pytest.raises(ValueError, match=rf"^iterations must not be negative; got {iterations}$"):
        KMeans(iterations)


@each_distance
def test_kmeans_leaves_a_smaller_residual_than_it_started_with(distance: Distance) -> None:
    rows = torch.randn(400, 4)
    before, after = (start(KMeans(iterations), rows, 16, distance) for iterations in (0, 10))
    errors = [distance.measure(rows, vectors).amin(1).mean() for vectors in (before, after)]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("iterations", [1, 10])
def test_a_cluster_without_rows_starts_again_from_another_row(iterations: int) -> None:
    # Of clusters that start from equal rows, all but one are empty; the mean of no rows would be zero.
    rows = 5 + torch.cat([torch.zeros(90, 2), torch.randn(10, 2)])
    first = start(KMeans(0), rows, 8)
    assert len(first.unique(dim=0)) < 8
    refilled = start(KMeans(iterations), rows, 8)
    assert refilled.min() > 1
    assert len(refilled.unique(dim=0)) > len(first.unique(dim=0))


@of_the_data
@pytest.mark.parametrize("count", [3, 8, 20, 63, 64])
def test_fewer_rows_than_codes_leave_a_residual_for_the_next_stage(initializer: Initializer, count: int) -> None:
    rows = torch.randn(count, 4)
    for _ in range(3):
        left = residual(rows, start(initializer, rows, 64))
        assert 0 < left.norm() < rows.norm()
        assert (left.norm(dim=1) > 1e-3).sum() >= count // 4
        rows = left


def initialize(rank, initializer: str, rows_per_rank: list[int], rows: Tensor, codebook_size: int) -> Tensor:
    rank.join()
    mine = rows.split(rows_per_rank)[rank.index]
    return start(INITIALIZERS[initializer], mine, codebook_size)


@pytest.mark.parametrize("initializer", INITIALIZERS)
@pytest.mark.parametrize("rows_per_rank", [[30, 34], [1, 63], [0, 64]])
@pytest.mark.parametrize("codebook_size", [8, 100])
def test_two_ranks_start_as_one_on_the_joined_batch(
    two_ranks, initializer: str, rows_per_rank: list[int], codebook_size: int
) -> None:
    rows = torch.randn(64, 4)
    rows[3:20] = 0
    first, second = two_ranks(initialize, initializer, rows_per_rank, rows, codebook_size)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, start(INITIALIZERS[initializer], rows, codebook_size), atol=1e-6, rtol=0)
