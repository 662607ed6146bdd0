//! Seconds since 1970 ⇄ the date and time of the Gregorian calendar, in UTC.

use serde::{Deserialize, Serialize};

const SECONDS_A_DAY: i64 = 86_400;
/// The clock shows four digits of the year: 0001-01-01 to 9999-12-31, of which
/// those from 1970 on can be now.
const LAST_SECOND: i64 = 253_402_300_799;

/// A date and time. The fields hold what was written to them, which need not be one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DateTime {
    /// Year, all digits.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 1 (Sunday) to 7.
    pub weekday: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl DateTime {
    /// The date and time `seconds` after 1970 began; of times out of range, the
    /// nearest within.
    pub fn from_unix(seconds: i64) -> Self {
        let seconds = seconds.clamp(0, LAST_SECOND);
        let (mut days, in_day) = (seconds / SECONDS_A_DAY, seconds % SECONDS_A_DAY);
        // 1970-01-01 was a Thursday, the fifth day of its week.
        let weekday = (days + 4) % 7 + 1;
        let mut year = 1970 + days / 366;
        while days_before_year(year + 1) <= days {
            year += 1;
        }
        days -= days_before_year(year);
        let mut month = 1;
        while month < 12 && days >= days_of_month(year, month) {
            days -= days_of_month(year, month);
            month += 1;
        }
        Self {
            year: year as u16,
            month: month as u8,
            day: (days + 1) as u8,
            weekday: weekday as u8,
            hour: (in_day / 3600) as u8,
            minute: (in_day / 60 % 60) as u8,
            second: (in_day % 60) as u8,
        }
    }

    /// Seconds since 1970 began; none if this is no date and time from then to
    /// the year 9999. The weekday is not looked at.
    pub fn to_unix(self) -> Option<i64> {
        let (year, month, day) = (
            i64::from(self.year),
            i64::from(self.month),
            i64::from(self.day),
        );
        let is_date = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of_month(year, month)).contains(&day);
        if !is_date || self.hour > 23 || self.minute > 59 || self.second > 59 {
            return None;
        }
        let earlier: i64 = (1..month).map(|month| days_of_month(year, month)).sum();
        let days = days_before_year(year) + earlier + day - 1;
        let in_day = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60;
        Some(days * SECONDS_A_DAY + in_day + i64::from(self.second))
    }
}

/// Days from 1970-01-01 to the first day of `year`, 1970 to 10000.
fn days_before_year(year: i64) -> i64 {
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> [u16; 7] {
        let t = DateTime::from_unix(seconds);
        [
            t.year,
            t.month.into(),
            t.day.into(),
            t.weekday.into(),
            t.hour.into(),
            t.minute.into(),
            t.second.into(),
        ]
    }

    #[test]
    fn known_dates() {
        assert_eq!(at(0), [1970, 1, 1, 5, 0, 0, 0]);
        assert_eq!(at(951_782_399), [2000, 2, 28, 2, 23, 59, 59]);
        assert_eq!(at(951_782_400), [2000, 2, 29, 3, 0, 0, 0]);
        assert_eq!(at(1_234_567_890), [2009, 2, 13, 6, 23, 31, 30]);
        assert_eq!(at(1_735_689_599), [2024, 12, 31, 3, 23, 59, 59]);
        assert_eq!(at(4_107_542_400), [2100, 3, 1, 2, 0, 0, 0]);
        assert_eq!(at(i64::MAX), [9999, 12, 31, 6, 23, 59, 59]);
        assert_eq!(at(i64::MIN), at(0));
    }

    #[test]
    fn what_is_no_date_is_no_time() {
        let good = DateTime::from_unix(951_782_400);
        assert!(good.to_unix().is_some());
        for bad in [
            DateTime { year: 2001, ..good },
            DateTime { year: 1969, ..good },
            DateTime {
                year: 10_000,
                ..good
            },
            DateTime { month: 13, ..good },
            DateTime { month: 0, ..good },
            DateTime { day: 30, ..good },
            DateTime { day: 0, ..good },
            DateTime { hour: 24, ..good },
            DateTime { minute: 60, ..good },
            DateTime { second: 60, ..good },
        ] {
            assert_eq!(bad.to_unix(), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in 0..=LAST_SECOND) {
            prop_assert_eq!(DateTime::from_unix(seconds).to_unix(), Some(seconds));
        }
    }
}
