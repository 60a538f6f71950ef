"""The channels that a broker follows, and how its positions move."""

from ssestream.brokers.broker import ChannelError, Entry, News, Position, Slice
from ssestream.brokers.followed import FollowedLogs

AT = Position("log", 1)
PIECE = Slice("log", 1, 3, [Entry(2, b"two", "aa")])


def test_a_position_moves_past_what_is_passed_on() -> None:
    followed, news = FollowedLogs(), News()
    followed.follow("news", AT)
    followed.pass_on("news", AT, PIECE, news)
    assert followed.all() == {"news": Position("log", 2, "aa")}
    assert news == {"news": PIECE.with_after(AT)}


def test_without_entries_it_moves_to_the_end_of_the_log() -> None:
    followed, news = FollowedLogs(), News()
    followed.follow("news", AT)
    followed.pass_on("news", AT, Slice("other", 1, 0, []), news)
    assert followed.all() == {"news": Position("other", 0)}


def test_who_follows_from_elsewhere_meanwhile_gets_nothing_old() -> None:
    followed, news = FollowedLogs(), News()
    followed.follow("news", AT)
    followed.follow("news", Position("log", 0))
    followed.pass_on("news", AT, PIECE, news)
    assert (news, followed.all()) == ({}, {"news": Position("log", 0)})


def test_a_channel_that_was_left_gets_nothing() -> None:
    followed, news = FollowedLogs(), News()
    followed.follow("news", AT)
    followed.unfollow("news")
    followed.unfollow("news")
    followed.pass_on("news", AT, PIECE, news)
    assert (news, followed.all()) == ({}, {})


def test_a_channel_that_fails_is_left_out_until_it_is_followed_again() -> None:
    followed, news = FollowedLogs(), News()
    followed.follow("news", AT)
    error = ChannelError("news", "damaged")
    followed.pass_on("news", AT, error, news)
    assert (news, followed.all()) == ({"news": error}, {})
    followed.follow("news", AT)
    assert followed.all() == {"news": AT}
